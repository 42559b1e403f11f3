"""Checkpoints on disk: whole or absent, whenever the writer dies, and thinned to what a run keeps."""

import hashlib
import os
import signal

import pytest

from lima import runs
from lima.train import checkpoints

IDENTITY = {"ranks": 1, "recipe": {"learning_rate": 1e-5}, "dataset": "abc"}
WEIGHTS, STATE = ["config.json", "model.safetensors"], ["global_step3/rank0.pt", "optimizer.pt", "rng_state_0.pth"]


def write(run, step, files=(*WEIGHTS, *STATE)):
    """Saves a checkpoint of files whose content is their name and step."""

    def write():
        for name in files:
            path = checkpoints.saving_folder(run) / f"checkpoint-{step}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} of {step}")

    checkpoints.save(run, step, step / 3, IDENTITY, write)
    return run / f"checkpoint-{step}"


def names(folder):
    """The files of a checkpoint but its marker."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != runs.MARKER)


def test_the_marker_tells_every_files_size_and_digest(tmp_path):
    folder = write(tmp_path, 3)
    said = runs.marker(folder)
    for name in [*WEIGHTS, *STATE]:
        content = f"{name} of 3".encode()
        assert said["files"].pop(name) == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert said == {"step": 3, "epoch": 1.0, **IDENTITY, "files": {}}
    assert runs.checkpoints(tmp_path) == [folder] and not checkpoints.saving_folder(tmp_path).exists()


def test_a_checkpoint_that_stands_is_not_written_again(tmp_path):
    folder = write(tmp_path, 3)
    checkpoints.save(tmp_path, 3, 1.0, IDENTITY, lambda: pytest.fail("written again"))
    assert names(folder) == sorted([*WEIGHTS, *STATE])


def test_a_marker_that_has_changed_is_none(tmp_path):
    folder = write(tmp_path, 3)
    text = (folder / runs.MARKER).read_text()
    for bad in (text.replace("1e-05", "2e-05"), text[:-20], ""):
        assert bad != text
        (folder / runs.MARKER).write_text(bad)
        assert runs.marker(folder) is None and runs.checkpoints(tmp_path) == []


def test_a_writer_that_fails_leaves_no_checkpoint(tmp_path):
    def fails():
        (checkpoints.saving_folder(tmp_path) / "checkpoint-3").mkdir(parents=True)
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        checkpoints.save(tmp_path, 3, 1.0, IDENTITY, fails)
    assert runs.checkpoints(tmp_path) == [] and not list(tmp_path.glob("checkpoint-*"))


def killed_at_call(number, work):
    """Does `work()` in a fork that dies at the `number`th call that changes the file system; returns its exit code."""
    pid = os.fork()
    if pid == 0:
        left = [number]

        def counted(original):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)

            return call

        for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_death_at_any_call_to_the_file_system_leaves_whole_checkpoints(tmp_path):
    """A save of step 6 and the thinning of step 3, killed before the first such call, the second, and so on to the end."""
    calls, seen, code = 0, set(), None
    while code != 0:
        calls += 1
        run = tmp_path / str(calls)
        write(run, 3)
        code = killed_at_call(calls, lambda run=run: (write(run, 6), checkpoints.thin(run, "1", 3, newest=1)))
        assert code in (0, -signal.SIGKILL)
        seen.add(tuple(folder.name for folder in runs.checkpoints(run)))
        for folder in runs.checkpoints(run):
            said = runs.marker(folder)["files"]
            assert set(WEIGHTS) <= set(said) <= set(names(folder))
            assert all(runs.sha256(folder / name) == digest["sha256"] for name, digest in said.items())
    assert seen == {("checkpoint-3",), ("checkpoint-3", "checkpoint-6")} and calls > 20
    assert names(run / "checkpoint-3") == WEIGHTS and names(run / "checkpoint-6") == sorted([*WEIGHTS, *STATE])


@pytest.mark.parametrize(
    ("keep", "newest", "left"),
    [
        ("2-3", 1, {6: WEIGHTS, 9: WEIGHTS, 13: None}),
        ("2-3", 2, {6: WEIGHTS, 9: WEIGHTS, 12: None, 13: None}),
        ("none", 1, {13: None}),
        ("4", 1, {12: WEIGHTS, 13: None}),
        ("all", 1, {3: WEIGHTS, 6: WEIGHTS, 7: WEIGHTS, 9: WEIGHTS, 12: WEIGHTS, 13: None}),
    ],
)
def test_what_is_left_of_older_checkpoints(keep, newest, left, tmp_path):
    """Three steps an epoch; steps 7 and 13 are within one, as after a signal. None: all files."""
    for step in (3, 6, 7, 9, 12, 13):
        write(tmp_path, step)
    checkpoints.thin(tmp_path, keep, 3, newest)
    found = {runs.marker(folder)["step"]: names(folder) for folder in runs.checkpoints(tmp_path)}
    assert found == {step: files or sorted([*WEIGHTS, *STATE]) for step, files in left.items()}
    assert len(list(tmp_path.iterdir())) == len(left)
