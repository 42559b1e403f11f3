"""What the stages of the reproduction read and make."""

from pathlib import Path

import pytest

from lima import UserError, runs
from lima.evaluate import asking
from lima.reproduce import files


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of epochs 5 and 6 that has answered dev with both, and test with the second."""
    monkeypatch.chdir(tmp_path)
    run = Path("runs/mini")
    for epoch, sets in ((5, ["dev"]), (6, ["dev", "test"])):
        runs.write_marker(run / f"checkpoint-{epoch}", {"step": epoch, "epoch": float(epoch), "files": {}})
        for name in sets:
            row = {"prompt_id": "p", "prompt": "q", "response": "r", "sample": 0}
            runs.write_jsonl(run / f"generations/checkpoint-{epoch}/{name}.jsonl", [row])
    return run


def test_answers_are_of_the_checkpoints_and_prompts(run):
    read, made = files.answering(run, "dev", "5-10")
    assert read == [*(run / f"checkpoint-{n}" / runs.MARKER for n in (5, 6)), Path("data/prompts/dev.jsonl")]
    assert made == [run / f"generations/checkpoint-{n}/dev.jsonl" for n in (5, 6)]
    assert files.selecting(run, "dev", "5-10")[0][:2] == made
    assert files.answering(run, "test")[1] == [run / "generations/checkpoint-6/test.jsonl"]


def test_ratings_follow_the_checkpoint_that_is_selected(run):
    read, made = files.rating(run, "dev", "level")
    assert read == [run / "generations/checkpoint-6/dev.jsonl", asking.INSTRUCTIONS / "level.txt"]
    assert made == [Path("judgments/mini.level.jsonl")]
    runs.write_text(run / "selected.json", '{"checkpoint": "checkpoint-5"}')
    assert files.rating(run, "dev", "level")[0][0] == run / "generations/checkpoint-5/dev.jsonl"
    assert files.measuring(run, "dev", "signals")[0] == [run / "generations/checkpoint-5/dev.jsonl"]
    assert files.answering(run, "dev")[1] == [run / "generations/checkpoint-5/dev.jsonl"]
    with pytest.raises(UserError, match="no answers to test"):
        files.rating(run, "test", "level")


def test_a_comparison_reads_both_systems(run):
    runs.write_jsonl("answers/other/dev.jsonl", [{"prompt_id": "p", "prompt": "q", "response": "s", "sample": 0}])
    read, made = files.comparing(run, "answers/other", "dev")
    assert read[:2] == [run / "generations/checkpoint-6/dev.jsonl", Path("answers/other/dev.jsonl")]
    assert read[2].name == "pair.txt" and made == [Path("judgments/mini-vs-other.jsonl")]
