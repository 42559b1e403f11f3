"""Selection of an epoch: by verdicts alone, with every difference corrected for how many were looked at."""

import json
import math
import re
import shutil

import pytest
from scipy import stats
from servers.openai import OpenAI

from lima import UserError, runs
from lima.evaluate import client, select

PROMPTS = 24
QUALITY = {5: 1, 6: 2, 7: 8, 8: 8, 9: 2}  # epoch → how good its answers are, as the stand-in judge below sees them


def made(folder, quality=QUALITY, prompts=PROMPTS):
    """A run by hand in folder/runs/mini: complete checkpoints, answers that say how good they are, metrics."""
    run = folder / "runs/mini"
    for epoch, good in quality.items():
        name = f"checkpoint-{10 * epoch}"
        runs.write_marker(run / name, {"step": 10 * epoch, "epoch": float(epoch), "files": {}})
        rows = [
            {"prompt_id": f"dev-{i}", "prompt": f"Question {i}?", "response": f"epoch {epoch}, goodness {good}",
             "finish_reason": "eot", "tokens": 5, "sampling": {}, "sample": 0}
            for i in range(prompts)
        ]  # fmt: skip
        runs.write_jsonl(run / "generations" / name / "dev.jsonl", rows)
    lines = [{"step": 10 * e, "epoch": float(e), "loss": 2.0 - e / 10, "eval_loss": 1.0 + e / 10} for e in quality]
    runs.write_jsonl(run / "metrics.jsonl", lines)
    return run


def better(messages):
    """A judge that prefers the higher goodness, and finds one step of it no difference."""
    first, second = map(int, re.findall(r"goodness (\d+)", messages[-1]["content"]))
    choice = "neither" if abs(first - second) < 2 else "A" if first > second else "B"
    return f"They say what they are.\nVerdict: {choice}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def verdicts_of(a, b, judge, verdicts, prompts="dev"):
    """A file of judgments by hand: `verdicts` a prompt each, the same in both orders, or one order for a person."""
    orders = ["ab"] if judge.startswith("human:") else ["ab", "ba"]
    rows = [
        {"prompt_id": f"dev-{i}", "prompts": prompts, "sample": 0, "a": a, "b": b, "judge": judge, "order": order,
         "verdict": verdict, "raw": "text", "date": "2026-11-20T10:00:00Z", "digest": ""}
        for i, verdict in enumerate(verdicts) for order in orders
    ]  # fmt: skip
    path = f"judgments/{a}-vs-{b}.jsonl"
    before = runs.read_jsonl(path) if runs.Path(path).exists() else []
    runs.write_jsonl(path, [*before, *rows])


def selected(run):
    return json.loads((run / "selected.json").read_text())


def test_a_judge_picks_and_equals_are_called_equal(here, capsys):
    run = made(here)
    with OpenAI(better) as server:
        words = ["--run", str(run), "--judge", "stand-in", "--base_url", server.url]
        assert select.main(words) == 0
        asked = len(server.answered)
        assert asked == 4 * 2 * PROMPTS  # four epochs against the first, in both orders
        assert select.main(words) == 0 and len(server.answered) == asked  # nothing is paid for twice
    found = selected(run)
    assert (found["checkpoint"], found["epoch"]) == ("checkpoint-70", 7)  # the earlier of two equals
    assert found["by"] == "stand-in" and found["against"] == "mini-checkpoint-50" and found["prompts"] == "dev"
    assert found["significant"] is False and found["comparisons"] == 10
    assert found["said"].startswith("no significant difference between epochs 7 and 8 ")
    assert found["said"].endswith("; epochs 7 and 8 share the highest score; the earliest is taken")
    rows = {row["epoch"]: row for row in found["table"]}
    assert rows[7]["win"][0] == 1 and rows[6]["tie"][0] == 1 and rows[9]["lose"][0] == 0 and rows[5]["win"] is None
    assert capsys.readouterr().out.count("no significant difference between epochs 7 and 8") == 2
    assert rows[6]["perplexity"] == pytest.approx(math.exp(1.6))  # beside, and never used


def test_nothing_is_selected_where_replies_are_missing(here, capsys, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.001)
    run = made(here)
    with OpenAI(better) as server:
        words = ["--run", str(run), "--judge", "stand-in", "--base_url", server.url]
        server.fail(503, at=7, times=2 * client.TRIES)
        assert select.main([*words, "--concurrency", "1"]) == 1 and not (run / "selected.json").exists()
        assert "nothing is selected: 2 replies did not come" in capsys.readouterr().err
        assert select.main(words) == 0 and selected(run)["checkpoint"] == "checkpoint-70"
        assert len(server.answered) == 4 * 2 * PROMPTS


def test_the_lowest_loss_does_not_win(here):
    """Held-out loss is lowest at epoch 5, training loss at epoch 9; the verdicts say 7."""
    run = made(here, {5: 1, 7: 8, 9: 3})
    for epoch, verdicts in ((70, "aaaaaaaaaaaa"), (90, "abababababab")):
        verdicts_of(f"mini-checkpoint-{epoch}", "mini-checkpoint-50", "m", verdicts)
    select.main(["--run", str(run), "--from_verdicts"])
    assert selected(run)["epoch"] == 7 and selected(run)["significant"] is True
    assert selected(run)["said"].startswith("epoch 7 is better than every other")


def test_shares_and_differences_are_those_of_a_hand_computation(here):
    run = made(here, {5: 1, 6: 1, 7: 1})
    six, seven = "aaaatttbbbaatbaabtaa".replace("t", "T"), "aaaaaaaaaaaaaaTTTTbb"
    named = {"a": "a", "b": "b", "T": "tie"}
    verdicts_of("mini-checkpoint-60", "mini-checkpoint-50", "m", [named[c] for c in six])
    verdicts_of("mini-checkpoint-70", "mini-checkpoint-50", "m", [named[c] for c in seven])
    select.main(["--run", str(run), "--from_verdicts"])
    rows = {row["epoch"]: row for row in selected(run)["table"]}
    assert [rows[6][key][0] for key in ("win", "tie", "lose")] == pytest.approx(
        [six.count("a") / 20, six.count("T") / 20, six.count("b") / 20]
    )
    assert rows[7]["score"][0] == pytest.approx((seven.count("a") + seven.count("T") / 2) / 20)
    value = {"a": 1, "T": 0.5, "b": 0}
    paired = [value[x] - value[y] for x, y in zip(six, seven, strict=True)]
    assert rows[6]["behind"][0] == pytest.approx(sum(paired) / 20)
    sure = stats.ttest_1samp(paired, 0)  # another way to the same: close, not equal
    low, high = sure.confidence_interval()
    assert rows[6]["behind"][1:] == pytest.approx([low, high], abs=0.04)
    assert rows[7]["behind"] is None and rows[5]["n"] == 20


def test_holm_by_hand():
    found = select.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )  # 4 × 0.005, 3 × 0.01, 2 × 0.03, never falling
    assert select.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_all_pairs_have_strengths_in_the_order_of_the_scores(here):
    run = made(here)
    with OpenAI(better) as server:
        select.main(["--run", str(run), "--judge", "m", "--base_url", server.url, "--all_pairs", "--epochs", "5,7,9"])
        assert len(server.answered) == 3 * 2 * PROMPTS
    found = selected(run)
    assert found["epoch"] == 7 and found["against"] == "each other" and found["significant"] is True
    # 9 (goodness 2) and 5 (1) are equals: half of what 7 leaves
    strengths = {row["epoch"]: row["strength"][0] for row in found["table"]}
    assert strengths[7] > strengths[9] == pytest.approx(strengths[5]) and sum(strengths.values()) == pytest.approx(
        0, abs=1e-6
    )
    assert [row["score"][0] for row in found["table"]] == [0.25, 1, 0.25]


def test_people_come_first(here, capsys):
    run = made(here, {5: 1, 6: 1, 7: 1})
    for judge, six, seven in (("machine", "a", "b"), ("human:anna", "b", "a"), ("human:ben", "tie", "a")):
        verdicts_of("mini-checkpoint-60", "mini-checkpoint-50", judge, [six] * 9)
        turned = {"a": "b", "b": "a"}[seven]  # this pair stands the other way round
        verdicts_of("mini-checkpoint-50", "mini-checkpoint-70", judge, [turned] * 9)
    select.main(["--run", str(run), "--from_verdicts"])
    assert selected(run)["epoch"] == 7 and selected(run)["by"] == "human:anna, human:ben"
    assert "those of machine stand too and are not used" in capsys.readouterr().out
    assert {row["epoch"]: row["score"][0] for row in selected(run)["table"]} == {5: 0.5, 6: 0.25, 7: 1.0}
    select.main(["--run", str(run), "--from_verdicts", "--judge", "machine"])
    assert selected(run)["epoch"] == 6 and selected(run)["by"] == "machine"


def test_only_prompts_that_all_were_judged_on_count(here, capsys):
    run = made(here, {5: 1, 6: 1, 7: 1})
    verdicts_of("mini-checkpoint-60", "mini-checkpoint-50", "m", ["b"] * 5 + ["a"] * 19)
    verdicts_of("mini-checkpoint-70", "mini-checkpoint-50", "m", ["tie"] * 5)
    select.main(["--run", str(run), "--from_verdicts"])
    assert selected(run)["epoch"] in (5, 7) and {row["n"] for row in selected(run)["table"]} == {5}
    assert "partial: 5 of 24 prompts" in capsys.readouterr().out


def test_a_part_of_the_prompt_set_is_called_a_part(here, capsys):
    run = made(here, {5: 1, 6: 8}, prompts=8)
    prompts = [{"id": f"dev-{i}", "messages": [{"role": "user", "content": f"Question {i}?"}]} for i in range(50)]
    runs.write_jsonl("data/prompts/dev.jsonl", prompts)
    with OpenAI(better) as server:
        words = ["--run", str(run), "--judge", "m", "--base_url", server.url]
        select.main(words)
        assert "\npartial: 8 of 50 prompts, judged by m\n" in capsys.readouterr().out
        select.main([*words, "--limit", "3", "--dry_run"])
        assert "in all 1 comparisons, 0 calls; 6 are answered already" in capsys.readouterr().out
    runs.write_jsonl("data/prompts/dev.jsonl", prompts[:8])
    select.main(["--run", str(run), "--from_verdicts", "--prompts", "data/prompts/dev.jsonl"])
    assert "\nall 8 prompts, judged by m\n" in capsys.readouterr().out


def test_verdicts_on_answers_as_they_were_do_not_count(here, capsys):
    run = made(here, {5: 1, 6: 8})
    with OpenAI(better) as server:
        select.main(["--run", str(run), "--judge", "m", "--base_url", server.url])
    select.main(["--run", str(run), "--from_verdicts"])
    assert "verdicts on other answers" not in capsys.readouterr().out and selected(run)["table"][0]["n"] == PROMPTS
    path = run / "generations/checkpoint-60/dev.jsonl"
    rows = runs.read_jsonl(path)
    rows[3]["response"] = "another answer"
    runs.write_jsonl(path, rows)
    select.main(["--run", str(run), "--from_verdicts"])
    assert "left   2 verdicts on other answers or by another instruction than pair.txt\n" in capsys.readouterr().out
    assert {row["n"] for row in selected(run)["table"]} == {PROMPTS - 1}
    verdicts_of("mini-checkpoint-60", "mini-checkpoint-50", "human:ann", ["a"] * 4)  # no digest: it counts
    select.main(["--run", str(run), "--from_verdicts"])
    assert selected(run)["by"] == "human:ann"
    (here / "mine.txt").write_text("{prompt} {answer_a} {answer_b}")
    with pytest.raises(UserError, match="in judgments/: none"):
        shutil.move("judgments/mini-checkpoint-60-vs-mini-checkpoint-50.jsonl", "all.jsonl")
        rows = [row for row in runs.read_jsonl("all.jsonl") if row["judge"] == "m"]
        runs.write_jsonl("judgments/mini-checkpoint-60-vs-mini-checkpoint-50.jsonl", rows)
        select.main(["--run", str(run), "--from_verdicts", "--instruction", "mine.txt"])


def test_a_dry_run_asks_nobody_and_writes_nothing(here, capsys):
    run = made(here)
    with OpenAI(better) as server:
        words = ["--run", str(run), "--judge", "m", "--base_url", server.url, "--dry_run", "--price", "1,1"]
        assert select.main(words) == 0
        assert not server.calls
    assert "4 comparisons, 192 calls" in capsys.readouterr().out
    assert not (run / "selected.json").exists() and not (here / "judgments").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "no judge: name one.*perplexity never picks"),
        (["--from_verdicts"], "verdicts on dev of these checkpoints in judgments/: none"),
        (["--judge", "m", "--epochs", "11-12"], "0 complete checkpoints.*it has epochs 5, 6, 7, 8, 9; EPOCHS=5-9$"),
        (["--judge", "m", "--epochs", "ten"], "--epochs: expected epochs such as"),
        (["--judge", "m", "--prompts", "data/prompts/test.jsonl"], "the test prompts report, they do not choose"),
        (["--judge", "m", "--prompts", "mine"], "make generate RUN=.* EPOCHS=5,6,7,8,9 PROMPTS=mine"),
        (["--judge", "human:me"], "expected a model's name"),
    ],
)
def test_what_is_missing_is_said(here, words, said):
    run = made(here)
    with pytest.raises(UserError, match=said):
        select.main(["--run", str(run), *words])
    assert not (run / "selected.json").exists()


def test_what_stands_must_be_enough(here):
    run = made(here, {5: 1, 6: 1, 7: 1})
    verdicts_of("mini-checkpoint-60", "mini-checkpoint-50", "m", ["a"])
    with pytest.raises(UserError, match="m: no verdict on mini-checkpoint-70 against mini-checkpoint-50"):
        select.main(["--run", str(run), "--from_verdicts"])
    verdicts_of("mini-checkpoint-70", "mini-checkpoint-50", "other", ["a"])
    with pytest.raises(UserError, match="m, other; name one with --judge"):
        select.main(["--run", str(run), "--from_verdicts"])
    with pytest.raises(UserError, match="no run there"):
        select.main(["--run", "runs/none", "--from_verdicts"])
    shutil.rmtree(run / "generations/checkpoint-60")
    with pytest.raises(
        UserError, match=r"no answers to dev of epoch 6; make them: make generate RUN=.* EPOCHS=6 PROMPTS=dev"
    ):
        select.main(["--run", str(run), "--from_verdicts"])
