"""Which checkpoint is gone on from, which are passed over and why, and what is refused."""

import os
from types import SimpleNamespace

import pytest
from test_checkpoints import IDENTITY, STATE, WEIGHTS, write

from lima import UserError, runs
from lima.train import checkpoints, resuming


def recipe(run, **more):
    return SimpleNamespace(
        **{"output_dir": str(run), "resume_from_checkpoint": None, "resume": "auto", "overwrite": False, **more}
    )


def resume(run, **more):
    """`(what the run goes on from, what is told)`."""
    told = []
    return resuming.settle(str(run), *resuming.wanted(recipe(run, **more)), tell=told.append), told


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def flip(path):
    content = bytearray(path.read_bytes())
    content[3] ^= 16
    path.write_bytes(content)


def unlink(path):
    path.unlink()


@pytest.fixture
def run(tmp_path):
    for step in (3, 6, 9):
        write(tmp_path, step)
    return tmp_path


def test_the_newest_is_taken(run):
    assert resume(run) == (run / "checkpoint-9", [])


def test_without_any_the_run_starts_anew(tmp_path):
    assert resume(tmp_path) == (None, []) == resume(tmp_path / "absent")


@pytest.mark.parametrize(
    ("harm", "name", "why"),
    [
        (cut, "optimizer.pt", "optimizer.pt has 16 bytes, 17 were written"),
        (flip, "model.safetensors", "model.safetensors has other bytes than were written"),
        (flip, "global_step3/rank0.pt", "global_step3/rank0.pt has other bytes than were written"),
        (unlink, "rng_state_0.pth", "rng_state_0.pth is gone"),
        (unlink, runs.MARKER, "it has no complete.json, so nothing says that it is whole"),
        (flip, runs.MARKER, "it has no complete.json, so nothing says that it is whole"),
    ],
)
def test_one_that_is_not_as_it_was_written_is_passed_over_and_set_aside(harm, name, why, run):
    harm(run / "checkpoint-9" / name)
    assert resume(run) == (run / "checkpoint-6", [f"note: checkpoint-9 passed over: {why}"])
    assert not (run / "checkpoint-9").exists() and (run / "checkpoint-9.passed-over/config.json").exists()
    assert resume(run) == (run / "checkpoint-6", [])


def test_when_none_is_whole_the_run_starts_anew(tmp_path):
    for step, harm in ((3, flip), (6, cut)):
        harm(write(tmp_path, step) / "optimizer.pt")
    chosen, told = resume(tmp_path)
    assert chosen is None and len(told) == 2 and runs.checkpoints(tmp_path) == []


@pytest.mark.parametrize("harm", [cut, flip])
def test_weights_that_stand_are_not_lost_when_no_state_is_whole(harm, tmp_path):
    write(tmp_path, 3, WEIGHTS)
    harm(write(tmp_path, 6) / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimiser's state.*--overwrite true"):
        resume(tmp_path)
    assert (tmp_path / "checkpoint-3/model.safetensors").exists()


def test_what_a_death_left_is_removed_and_said(run):
    left = checkpoints.saving_folder(run) / "checkpoint-12"
    left.mkdir(parents=True)
    (run / "checkpoint-3/optimizer.pt").touch()
    marker = runs.marker(run / "checkpoint-3")
    runs.write_marker(
        run / "checkpoint-3", {**marker, "files": {n: d for n, d in marker["files"].items() if n not in STATE}}
    )
    assert resume(run) == (run / "checkpoint-9", [f"note: removed {left}, half-written"])
    assert not left.parent.exists() and not (run / "checkpoint-3/optimizer.pt").exists()
    assert (run / "checkpoint-3/model.safetensors").exists()


def test_going_back_to_an_older_one_sets_the_newer_aside(run):
    assert resume(run, resume_from_checkpoint=str(run / "checkpoint-3"))[0] == run / "checkpoint-3"
    assert runs.checkpoints(run) == [run / "checkpoint-3"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {"resume": "never"},
            r"holds 3 checkpoints of an earlier run; continue it with --resume auto, train beside .*--run_name",
        ),
        (
            {"resume_from_checkpoint": "runs/none/checkpoint-1"},
            r"not a whole checkpoint.*newest of this run is .*checkpoint-9",
        ),
        ({"resume_from_checkpoint": "OTHER"}, r"holds 3 checkpoints.*checkpoint-5 is of another"),
        ({"resume_from_checkpoint": "WEIGHTS"}, r"checkpoint-4: its optimiser's state is gone"),
    ],
)
def test_what_would_mix_runs_or_cannot_go_on_is_refused(more, why, run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    named = {"OTHER": write(other, 5), "WEIGHTS": write(other, 4, WEIGHTS)}
    more = {key: str(named.get(value, value)) for key, value in more.items()}
    with pytest.raises(UserError, match=why) as error:
        resuming.wanted(recipe(run, **more))
    assert "\n" not in str(error.value)


def test_overwriting_asks_for_nothing(run):
    assert resuming.wanted(recipe(run, overwrite=True, resume="never")) == ([], [])


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ({"ranks": 2}, "ranks 2 then, 1 now: go on with as many"),
        ({"dataset": "def"}, "dataset def then, abc now: restore the data"),
        ({"recipe": {"learning_rate": 2e-5}}, "trained with learning_rate=2e-05, and the recipe now says 1e-05"),
        ({"recipe": {"learning_rate": 1e-5, "seed": 1}}, "trained with seed=1, and the recipe now says None"),
    ],
)
def test_another_recipe_dataset_or_number_of_ranks_is_named(then, why, tmp_path):
    checkpoint = write(tmp_path, 3)
    runs.write_marker(checkpoint, {**runs.marker(checkpoint), **then})
    with pytest.raises(UserError, match=why) as error:
        resuming.check_same(checkpoint, IDENTITY)
    assert "--run_name NAME" in str(error.value) and "\n" not in str(error.value)


def test_what_does_not_shape_the_weights_may_differ(tmp_path):
    checkpoint = write(tmp_path, 3)
    now = {
        **IDENTITY,
        "recipe": {**IDENTITY["recipe"], "run_name": "other", "tokens_per_device": 1, "report_to": "none"},
    }
    resuming.check_same(checkpoint, now)
    assert resuming.finished(checkpoint, now, "all", 3, 4) is False


def test_a_run_at_its_last_step_is_finished_and_cleared_up(run, capsys):
    (run / "saving").mkdir()
    assert resuming.finished(run / "checkpoint-9", IDENTITY, "2", 3, 9) is True
    assert "is finished: 9 of 9 steps" in capsys.readouterr().out
    left = {path.name: len(list(path.iterdir())) for path in run.iterdir()}
    assert left == {"checkpoint-6": len(WEIGHTS) + 1, "checkpoint-9": len(WEIGHTS) + len(STATE) + 1}
