"""Checkpoints that are complete or absent, and which of them a run keeps.

A checkpoint is written in `runs/NAME/saving/`, flushed to disk, marked with the digests of its files and renamed into its
place. What a death leaves behind lies in `saving/`, and is removed at the next start (`resuming.py`). Weights of the epochs
in `keep_epochs` and of the last are kept (section 3); what only resuming needs, of the newest two, at the end of the newest.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lima import runs
from lima.train import ranks

RESUME_ONLY = ("optimizer.pt", "scheduler.pt", "rng_state*.pth", "global_step*", "zero_to_*.py", "latest")


def save(output_dir, step, epoch, identity, write):
    """Makes `checkpoint-STEP` of what `write()` writes into `saving_folder(output_dir)`, whole or not at all.

    Called by every rank: `write` is the Trainer's own saving, and the ranks share flushing and hashing the files. `epoch`: how
    many are done, a float. `identity`: `{"ranks", "recipe", "dataset"}` of the run. A checkpoint that stands is left as it is.
    """
    final, saving = Path(output_dir) / f"checkpoint-{step}", saving_folder(output_dir)
    beside = saving / final.name
    if ranks.gathered(runs.marker(final) is not None)[0]:
        return
    write()
    ranks.wait()
    files = [entry for share in ranks.gathered(_digests(beside, *ranks.place())) for entry in share]
    if ranks.place()[0] == 0:
        marker = {"step": step, "epoch": round(epoch, 4), **identity, "files": dict(sorted(files))}
        runs.write_marker(beside, marker)
        for path in [beside / runs.MARKER, beside, *(path for path in beside.rglob("*") if path.is_dir())]:
            _flush(path)
        os.replace(beside, final)
        _flush(final.parent)
        shutil.rmtree(saving)
        runs.forget_former(output_dir)  # the run that this one replaces
    ranks.wait()


def saving_folder(output_dir):
    """Where checkpoints are written before they are renamed into their place."""
    return Path(output_dir) / "saving"


def _digests(folder, rank, of):
    """`[(path within the folder, {"bytes", "sha256"}), …]` of this rank's share of the files, flushed to disk."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    share = sorted(paths, key=lambda path: -path.stat().st_size)[rank::of]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: (str(path.relative_to(folder)), _digest(path)), share))


def _digest(path):
    _flush(path)
    return {"bytes": path.stat().st_size, "sha256": runs.sha256(path)}


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def thin(output_dir, keep_epochs, steps_per_epoch, newest):
    """Leaves of all checkpoints but the `newest` the weights of the epochs in `keep_epochs`; with "all", of any step.

    A death amid this leaves checkpoints whole: what goes is first taken from the marker, or moved out of its place.
    """
    keep = runs.parse_epochs(keep_epochs)
    for folder in runs.checkpoints(output_dir)[:-newest]:
        marker = runs.marker(folder)
        epoch, rest = divmod(marker["step"], steps_per_epoch)
        if keep_epochs == "all" or (rest == 0 and keep(epoch)):
            _forget_state(folder, marker)
        else:
            _remove(folder)


def _forget_state(folder, marker):
    state = {str(path.relative_to(folder)) for path in state_files(folder)}
    files = {name: digest for name, digest in marker["files"].items() if name not in state}
    if files != marker["files"]:
        runs.write_marker(folder, {**marker, "files": files})
    forget(state_files(folder))


def state_files(checkpoint):
    """Its files that only resuming needs."""
    found = [path for pattern in RESUME_ONLY for path in checkpoint.glob(pattern)]
    inside = [file for path in found if path.is_dir() for file in path.rglob("*")]
    return [path for path in [*found, *inside] if path.is_file()]


def forget(files):
    """Removes files of a checkpoint, and folders that they leave empty."""
    for path in files:
        path.unlink()
    for folder in sorted({path.parent for path in files}, reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def _remove(folder):
    saving = saving_folder(folder.parent)
    shutil.rmtree(saving, ignore_errors=True)
    saving.mkdir()
    os.replace(folder, saving / folder.name)
    shutil.rmtree(saving)


def kept(epochs, keep_epochs):
    """Epoch numbers whose weights stand at the end of a run of `epochs` epochs."""
    keep = runs.parse_epochs(keep_epochs)
    return [epoch for epoch in range(1, epochs + 1) if keep(epoch) or epoch == epochs]
