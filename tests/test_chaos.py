"""A death of every kind, each resumed to the same bits; and a harness that would notice if it were not."""

import os

import pytest
from conftest import run
from test_checkpoints import write

from benchmarks import chaos
from lima import runs


@pytest.mark.parametrize(
    "words",
    [
        ["--skip", "ZeRO", "W&B", "push", "moment", "random state", "gone"],
        pytest.param(["--only", "ZeRO"], marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_death_is_survived(words):
    """A dozen; tests/test_wandb.py and test_push.py have theirs, `make chaos` has all."""
    done = run("-m", "benchmarks.chaos", "--faults", 1, *words, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    tries, survived = (sum(int(row[column].strip(" *")) for row in rows[:-1]) for column in (2, 3))
    named = [fault for fault in chaos.FAULTS if any(word in fault.name for word in words[1:])]
    kinds = len(named) if words[0] == "--only" else len(chaos.FAULTS) - len(named)
    assert tries == survived == kinds - (0 if os.geteuid() == 0 else 2)


def test_what_is_lost_is_noticed(tmp_path):
    for step in (3, 6):
        write(tmp_path, step, ["model.safetensors", "optimizer.pt"])
    weights = chaos.weights(tmp_path)
    same = {"kept": weights, "all": weights}
    assert chaos.judge(weights, same, tmp_path, [-9], [0]) is None
    assert "resuming ended with [1]" in chaos.judge(weights, same, tmp_path, [-9], [1])
    other = {"kept": {**weights, "checkpoint-6": "0"}, "all": weights}
    assert "with the same bits" in chaos.judge(weights, other, tmp_path, [-9], [0])
    assert "with the same bits" in chaos.judge(
        weights, {"kept": {**weights, "checkpoint-9": "0"}, "all": weights}, tmp_path, [], [0]
    )
    assert "differed already" in chaos.judge({"checkpoint-3": "0"}, same, tmp_path, [-9], [0])
    (tmp_path / "saving").mkdir()
    assert chaos.judge(weights, same, tmp_path, [-9], [0]) == "saving/ is left"
    (tmp_path / "checkpoint-3/model.safetensors").write_text("model.safetensors of 4")
    assert runs.checkpoints(tmp_path)
    with pytest.raises(AssertionError, match=r"checkpoint-3.*has changed"):
        chaos.weights(tmp_path)
