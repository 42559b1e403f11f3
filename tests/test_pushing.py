"""A run that pushes as it trains: each kept epoch gets there, verified; and where pushing fails, the run does not notice."""

import time

import pytest
from conftest import first_rows

import lima_sft
from lima import runs
from lima.publish import verify

FLAGS = ["--config", "recipes/135m.yaml", "--heldout", "None", "--report_to", "none", "--max_length", "256", "--sample_prompts",
         "0", "--num_train_epochs", "3", "--keep_epochs", "2", "--learning_rate", "1e-3"]  # fmt: skip


def train(base, place, hub):
    words = [
        "--model_name_or_path",
        base,
        "--dataset",
        first_rows(place / "six.jsonl", 6),
        "--output_dir",
        place / "run",
    ]
    lima_sft.main([*FLAGS, *map(str, words), "--push_each_epoch", hub])
    return place / "run"


def said(run, count, words):
    """Waits until the background has said `words` so many times; returns all that it said."""
    log, until = run / "logs/push.log", time.monotonic() + 200
    while not log.exists() or log.read_text().count(words) < count:
        assert time.monotonic() < until, log.read_text() if log.exists() else "no log"
        time.sleep(0.2)
    return log.read_text()


@pytest.mark.slow
def test_kept_epochs_are_pushed_as_the_run_trains(tiny_base, tmp_path):
    run = train(tiny_base, tmp_path, f"dir:{tmp_path / 'hub'}")
    said(run, 2, "pushed ·")
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"main", "epoch-02", "epoch-03"}
    for checkpoint, revision in zip(runs.checkpoints(run), ("epoch-02", "epoch-03"), strict=True):
        assert verify.why_not(checkpoint) is None
        ours, theirs = (folder / "model.safetensors" for folder in (checkpoint, tmp_path / "hub" / revision))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_costs_the_run_nothing(tiny_base, tmp_path):
    run = train(tiny_base, tmp_path, "org/name")
    assert [folder.name for folder in runs.checkpoints(run)] == ["checkpoint-2", "checkpoint-3"]
    log = said(run, 2, "error: ")
    assert "Traceback" not in log
