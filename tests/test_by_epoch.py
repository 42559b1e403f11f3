"""Appendix B's series: perplexity, grades and signals of an epoch stand in its row, each from its own file."""

import math
import statistics

import pytest
from conftest import run as python

from lima import UserError, runs
from lima.evaluate import by_epoch, intervals, verdicts

LOSSES = {0: 3.0, 2: 2.5, 4: 2.25, 6: 2.75}
SAID = {2: ["length"] * 3 + ["eot"], 4: ["eot"] * 4, 6: [None] * 4}


def graded(run, step, grades, judge="m", prompts="dev"):
    """Rows as rate.py writes them: `grades` is a list (a prompt each) of lists."""
    return [
        {"prompt_id": f"dev-{i}", "prompts": prompts, "sample": 0, "system": f"{run.name}-checkpoint-{step}",
         "judge": judge, "n": n, "grade": grade, "raw": str(grade), "date": "", "digest": verdicts.digest("a", "b")}
        for i, group in enumerate(grades) for n, grade in enumerate(group)
    ]  # fmt: skip


GRADES = {4: [[3, 4], [5, 5], [2, None], [6, 6]], 6: [[None], [None]]}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Three epochs of two steps: held-out losses from step 0, answers of each, grades of the last two; in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "runs/tiny"
    rows = [{"step": step, "epoch": step / 2, "loss": 2.0} for step in range(1, 7)]
    rows += [{"step": step, "epoch": step / 2, "eval_loss": loss} for step, loss in LOSSES.items()]
    runs.write_jsonl(folder / "metrics.jsonl", rows)
    for step, reasons in SAID.items():
        answers = [{"prompt_id": f"dev-{i}", "prompt": f"Why {i}?", "response": "So.", "finish_reason": reason,
                    "tokens": 10 * step + i, "sampling": {}, "sample": 0} for i, reason in enumerate(reasons)]  # fmt: skip
        runs.write_jsonl(folder / f"generations/checkpoint-{step}/dev.jsonl", answers)
    for step, grades in GRADES.items():
        runs.write_jsonl(f"judgments/tiny-checkpoint-{step}.grade.jsonl", graded(folder, step, grades))
    runs.write_jsonl("judgments/tiny.grade.jsonl", graded(folder, 9, [[1]]))  # of the selected one: no epoch of its own
    runs.write_jsonl("judgments/tiny-2-checkpoint-4.grade.jsonl", graded(folder, 4, [[1]]))  # another run
    return folder


def test_each_figure_is_of_its_epoch(run):
    found = by_epoch.series(run)
    assert [(row["step"], row["epoch"]) for row in found] == [(0, 0), (2, 1), (4, 2), (6, 3)]
    assert [row["perplexity"] for row in found] == [pytest.approx(math.e**loss) for loss in LOSSES.values()]
    assert [row["eot_share"] for row in found] == [None, 0.25, 1, None]
    assert [row["median_tokens"] for row in found] == [
        None,
        *(statistics.median(10 * s + i for i in range(4)) for s in SAID),
    ]
    # the mean over prompts, not over gradings: 3.5, 5, 2 and 6
    assert [row["grade"] for row in found] == [None, None, pytest.approx(16.5 / 4), None]
    low, high = intervals.mean([[3, 4], [5, 5], [2], [6, 6]])[1:]
    assert (found[2]["grade_low"], found[2]["grade_high"]) == (low, high) and low < 16.5 / 4 < high
    assert [(row["graded"], row["asked"]) for row in found] == [(0, 0), (0, 0), (7, 8), (0, 2)]


def test_the_table_shows_what_is_there_and_how_much_could_be_read(run, capsys):
    by_epoch.main(["--run", str(run)])
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["0", "0", "20.09", "–", "–", "–", "–"] in lines
    assert ["1", "2", "12.18", "–", "–", "25", "%", "22"] in lines
    assert any(line[:4] == ["2", "4", "9.49", "4.12"] and line[5:] == ["7/8", "100", "%", "42"] for line in lines)
    assert ["3", "6", "15.64", "–", "0/2", "–", "62"] in lines
    assert "never used to choose" in out and "no grades yet" not in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_without_grades_it_says_how_to_get_them(run, capsys, tmp_path):
    for path in tmp_path.glob("judgments/*"):
        path.unlink()
    by_epoch.main(["--run", str(run)])
    assert "no grades yet: python -m lima.evaluate.rate --kind grade" in capsys.readouterr().out


def test_other_prompt_sets_do_not_mix(run):
    path = "judgments/tiny-checkpoint-4.grade.jsonl"
    runs.write_jsonl(path, runs.read_jsonl(path) + graded(run, 4, [[1, 1]] * 9, prompts="test"))
    assert by_epoch.series(run)[2]["grade"] == pytest.approx(16.5 / 4)
    assert [row["grade"] for row in by_epoch.series(run, "test") if row["step"] == 4] == [1]


def test_two_judges_are_never_averaged(run):
    path = "judgments/tiny-checkpoint-4.grade.jsonl"
    runs.write_jsonl(path, runs.read_jsonl(path) + graded(run, 4, [[1]], judge="other"))
    with pytest.raises(UserError, match=r"--judge: these graded tiny on 'dev': m, other$"):
        by_epoch.series(run)
    assert by_epoch.series(run, judge="m")[2]["grade"] == pytest.approx(16.5 / 4)
    assert by_epoch.series(run, judge="other")[2]["grade"] == 1
    with pytest.raises(UserError, match="m, other"):
        by_epoch.series(run, judge="nobody")


def test_a_step_that_was_evaluated_again_counts_once(run):
    rows = runs.read_jsonl(run / "metrics.jsonl")
    runs.write_jsonl(run / "metrics.jsonl", [*rows, {"step": 4, "epoch": 2.0, "eval_loss": 1.0}])
    assert [row["perplexity"] for row in by_epoch.series(run)][2] == pytest.approx(math.e)


def test_a_run_without_held_out_text_still_has_its_answers(run):
    runs.write_jsonl(run / "metrics.jsonl", [{"step": 2, "epoch": 1.0, "loss": 2.0}])
    found = by_epoch.series(run)
    assert [(row["step"], row["epoch"], row["perplexity"]) for row in found] == [
        (2, 1, None),
        (4, None, None),
        (6, None, None),
    ]
    by_epoch.main(["--run", str(run)])


def test_a_mistake_is_one_line(run, tmp_path):
    with pytest.raises(UserError, match=r"^runs/none: no run there; runs here: tiny$"):
        by_epoch.series("runs/none")
    (tmp_path / "runs/empty").mkdir()
    with pytest.raises(UserError, match=r"no held-out loss in metrics.jsonl, no answers to 'dev' and no grades"):
        by_epoch.series("runs/empty")
    (tmp_path / "judgments/tiny-checkpoint-4.grade.jsonl").write_text("no json\n")
    with pytest.raises(UserError, match=r"tiny-checkpoint-4.grade.jsonl: line 1 is not a row"):
        by_epoch.series(run)


def test_the_module_is_a_program():
    done = python("-m", "lima.evaluate.by_epoch", "--run", "runs/none")
    assert done.returncode == 2 and "no run there" in done.stderr and "Traceback" not in done.stderr
