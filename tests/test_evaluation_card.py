"""From verdicts to the card: `make report` leaves figures, the card of the pushed checkpoint shows them, as the Hub reads them."""

import json

import pytest
from huggingface_hub import ModelCard

from lima import UserError, runs
from lima.evaluate import report
from lima.publish import card, evaluation, push

RECIPE = """config: recipes/7b.yaml
recipe: {model_name_or_path: bases/llama-7b, base: huggyllama/llama-7b, num_train_epochs: 15}
dataset: {name: GAIR/lima, fingerprint: abc, rows: 2, sources: {}, trimmed: 0, dropped: 0, tokens: 20}
"""


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """A run `mine` that wins 3 of 4 prompts against `<b>other`, and a grade of 4.5."""
    monkeypatch.chdir(tmp_path)
    runs.write_text("runs/mine/recipe.yaml", RECIPE)
    pair = {
        "prompts": "dev",
        "sample": 0,
        "a": "mine",
        "b": "<b>|other",
        "judge": "gpt",
        "raw": "",
        "date": "2026-11-26",
        "digest": "",
    }
    verdicts = [
        {**pair, "prompt_id": f"p{number}", "order": order, "verdict": "b" if number == 3 else "a"}
        for number in range(4)
        for order in ("ab", "ba")
    ]
    runs.write_jsonl("judgments/mine-vs-other.jsonl", verdicts)
    rating = {key: pair[key] for key in ("prompts", "sample", "judge", "raw", "date", "digest")}
    grades = [{**rating, "prompt_id": f"p{n}", "system": "mine", "n": 0, "grade": 4 + n % 2} for n in range(4)]
    runs.write_jsonl("judgments/mine.grade.jsonl", grades)
    assert report.main([]) == 0
    return tmp_path / "runs/mine"


def test_the_selected_checkpoints_card_has_the_reports_figures(judged):
    revisions = [push.Revision(name, {}) for name in ("epoch-05", "main")]
    markers = {name: {"step": 5, "epoch": 5.0} for name in ("epoch-05", "main")}
    push.add_cards(judged, revisions, markers, "org/mine", True)
    epoch, main = (revision.files["README.md"].decode() for revision in revisions)
    assert "## Evaluation" not in epoch and "model-index" not in epoch
    assert "win 75 % (" in main and "lose 25 % (" in main and "4.50 (" in main
    assert "<b>" not in main.split("---\n", 2)[2] and "against &lt;b&gt;\\|other" in main
    found = ModelCard(main).data.eval_results
    assert {(one.metric_type, one.metric_value) for one in found} == {
        ("pair_win", 0.75), ("pair_tie", 0.0), ("pair_lose", 0.25), ("grade_grade", 4.5)
    }  # fmt: skip


def test_a_part_of_the_prompts_is_shown_but_is_no_metadata():
    row = {"system": "mine", "against": "other", "kind": "pair", "judge": "gpt", "prompts": "dev",
           "of": "partial: 2 of 50 prompts", "date": "2026-11-26", "values": {"win": [1.0, 0.2, 1.0]}}  # fmt: skip
    assert "partial: 2 of 50 prompts of dev" in evaluation.section([row]) and not evaluation.metadata([row])


def test_without_a_report_there_is_no_such_part_and_a_broken_one_is_named(judged):
    evaluation.FILE.write_text(json.dumps(["what"]))
    with pytest.raises(UserError, match="make it again"):
        evaluation.read(judged)
    evaluation.FILE.unlink()
    assert evaluation.read(judged) == [] and evaluation.section([]) == "" and card.read_record(judged)
