"""Which checkpoint a run goes on from: the newest that is whole and of the same recipe, data and number of ranks."""

import json
import os
import shutil
from pathlib import Path

from lima import UserError, runs
from lima.train import checkpoints, ranks

# What may differ between a checkpoint and the run that goes on from it: where things lie, what is shown and kept, and how a
# step is cut into micro-batches (the same gradient to rounding).
FREE = {
    "attn_implementation", "base", "dataloader_num_workers", "dataset", "dev_prompts", "disable_tqdm", "dry_run",
    "eval_on_start", "gradient_checkpointing", "gradient_checkpointing_kwargs", "heldout", "ignore_fit", "keep_epochs",
    "logging_first_step", "logging_steps", "model_name_or_path", "output_dir", "overwrite", "padding_free",
    "per_device_eval_batch_size", "push_each_epoch", "report_to", "resume", "resume_from_checkpoint", "run_name", "sample_prompts",
    "save_only_model", "save_steps", "save_strategy", "test_prompts", "tokens_per_device",
}  # fmt: skip
OTHERWISE = "train beside it with --run_name NAME, or replace it with --overwrite true"


def wanted(recipe):
    """`([checkpoints that the recipe would go on from, the newest first], [why others were passed over, a line each])`.

    Looks at sizes only. Raises `UserError` where training would mix with what an earlier run left, or where the checkpoint that
    the recipe names cannot be gone on from.
    """
    run, named = Path(recipe.output_dir), recipe.resume_from_checkpoint
    standing = [] if recipe.overwrite else runs.checkpoints(run)
    if named:
        _check_named(Path(named), run, standing)
        return [Path(named)], []
    if not standing:
        return [], []
    if recipe.resume == "never":
        raise UserError(f"{_holds(run, standing)}; continue it with --resume auto, {OTHERWISE}")
    problems = {folder: _incomplete(folder) for folder in reversed(runs.checkpoint_folders(run))}
    found = [folder for folder, problem in problems.items() if not problem and checkpoints.state_files(folder)]
    if not found and None in problems.values():
        raise UserError(f"{_holds(run, standing)}, none of them with the optimiser's state; {OTHERWISE}")
    return found, [f"{folder.name} passed over: {problem}" for folder, problem in problems.items() if problem]


def _holds(run, standing):
    return f"{run}: holds {len(standing)} checkpoint{'s' * (len(standing) > 1)} of an earlier run"


def _check_named(checkpoint, run, standing):
    newest = f"the newest of this run is {standing[-1]}" if standing else "this run has none"
    problem = _incomplete(checkpoint)
    if problem:
        raise UserError(f"{checkpoint}: not a whole checkpoint ({problem}); {newest}")
    if not checkpoints.state_files(checkpoint):
        raise UserError(f"{checkpoint}: its optimiser's state is gone, kept weights only; {newest}")
    if standing and checkpoint.resolve().parent != run.resolve():
        raise UserError(f"{_holds(run, standing)}, and {checkpoint} is of another; {OTHERWISE}")


def _incomplete(folder):
    marker = runs.marker(folder)
    if marker is None:
        return f"it has no {runs.MARKER}, so nothing says that it is whole"
    for name, digest in marker["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is gone"
        if path.stat().st_size != digest["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes, {digest['bytes']:,} were written"
    return None


def settle(output_dir, found, notes, tell=print):
    """The checkpoint to go on from: the first of those `wanted` whose bytes are as they were written; None to start anew.

    Called by every rank; they share the reading and agree. The first rank clears away what a death left half-written and what
    was passed over, and tells. Raises `UserError` where starting anew would take the place of weights that stand.
    """
    chosen, changed = _choose(found)
    others = set(runs.checkpoints(output_dir)) - set(found)
    if found and not chosen and not all(_incomplete(folder) for folder in others):
        raise UserError(f"{'; '.join(changed)}; no other checkpoint has the optimiser's state; {OTHERWISE}")
    if ranks.place()[0] == 0:
        for note in [*_sweep(output_dir), *notes, *changed]:
            tell(f"note: {note}")
        _set_aside(output_dir, chosen)
    ranks.wait()
    return chosen


def _choose(found):
    notes = []
    for folder in found:
        changed = [name for share in ranks.gathered(_changed(folder, *ranks.place())) for name in share]
        if not changed:
            return folder, notes
        notes.append(f"{folder.name} passed over: {changed[0]} has other bytes than were written")
    return None, notes


def _changed(folder, rank, of):
    files = sorted(runs.marker(folder)["files"].items(), key=lambda file: (-file[1]["bytes"], file[0]))
    return [name for name, digest in files[rank::of] if runs.sha256(folder / name) != digest["sha256"]]


def identity(recipe, data, here):
    """What a checkpoint says of the run that wrote it, and what must be the same to go on from it."""
    return json.loads(json.dumps({"ranks": here.ranks, "recipe": recipe.given, "dataset": data.fingerprint}))


def finished(newest, identity, keep_epochs, steps, total):
    """Whether a run's newest checkpoint is that of its last step; if so, says it and clears up as the run's end would have.

    `steps`: an epoch's. Raises `UserError` as `check_same` does.
    """
    check_same(newest, identity)
    step, run = runs.marker(newest)["step"], newest.parent
    if step < total:
        return False
    if ranks.place()[0] == 0:
        _sweep(run)
        checkpoints.thin(run, keep_epochs, steps, newest=1)
        print(f"\n{run} is finished: {step} of {total} steps; {OTHERWISE}")
    return True


def check_same(checkpoint, identity):
    """Raises `UserError` if the run that wrote a checkpoint differs from this one in what shapes its weights.

    `identity`: `{"ranks", "recipe", "dataset"}` of this one, as `checkpoints.save` got it then.
    """
    marker = runs.marker(checkpoint)
    for topic, back in (("ranks", "go on with as many (GPUS=, NODES=)"), ("dataset", "restore the data")):
        if marker[topic] != identity[topic]:
            raise UserError(f"{checkpoint}: {topic} {marker[topic]} then, {identity[topic]} now: {back}, {OTHERWISE}")
    for key, then, now in differences(marker["recipe"], identity["recipe"]):
        raise UserError(
            f"{checkpoint}: trained with {key}={then}, and the recipe now says {now}: change it back, {OTHERWISE}"
        )


def differences(then, now):
    """`[(key, then, now), …]`: what two recipes, as given, say otherwise of what shapes the weights."""
    return [(key, then.get(key), now.get(key)) for key in sorted({*then, *now} - FREE) if then.get(key) != now.get(key)]


def _sweep(output_dir):
    """Removes what a death left half-written; returns what it was, a line each."""
    left, notes = checkpoints.saving_folder(output_dir), []
    if left.exists():
        notes = [f"removed {path}, half-written" for path in sorted(left.iterdir())]
        shutil.rmtree(left)
    for folder in runs.checkpoints(output_dir):
        known = runs.marker(folder)["files"]
        checkpoints.forget([p for p in checkpoints.state_files(folder) if str(p.relative_to(folder)) not in known])
    return notes


def _set_aside(run, chosen):
    """Moves what is newer than the checkpoint that a run goes on from to `checkpoint-N.passed-over`."""
    for folder in runs.checkpoint_folders(run):
        if (
            chosen is None
            or chosen.resolve().parent != folder.resolve().parent
            or runs.step_of(folder) > runs.step_of(chosen)
        ):
            aside = folder.with_name(f"{folder.name}.passed-over")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)
