"""Answers in AlpacaEval's and FastChat's forms, read back as those read them."""

import json
import os

import pytest

from lima import UserError, runs
from lima.evaluate import answers, export

TEXT = "Line one\nline two “quoted” \u2028 日本語 <b>&"


def mine(folder, *rows):
    path = folder / "runs/7b/generations/checkpoint-96/mt_bench.jsonl"
    runs.write_jsonl(path, [dict(zip(("prompt_id", "prompt", "response", "sample"), row, strict=True)) for row in rows])
    return path


def ours(folder):
    return mine(
        folder, ("81", "Why?", TEXT, 0), ("81", "Why?", "again", 1), ("82", "How?", "", 0), ("82", "How?", "so", 1)
    )


def run(folder, *flags):
    export.main(["--answers", str(folder / "runs/7b"), "--prompts", "mt_bench", *map(str, flags)])


def test_alpaca_eval_reads_a_list_of_outputs(tmp_path, capsys):
    ours(tmp_path)
    run(tmp_path, "--format", "alpaca_eval", "--out", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == [
        {"dataset": "mt_bench", "instruction": "Why?", "output": TEXT, "generator": "7b"},
        {"dataset": "mt_bench", "instruction": "How?", "output": "", "generator": "7b"},
    ]
    assert capsys.readouterr().out.startswith("2 answers of 7b → ")
    run(tmp_path, "--format", "alpaca_eval", "--sample", 1, "--out", tmp_path / "out.json")
    assert [row["output"] for row in json.loads((tmp_path / "out.json").read_text())] == ["again", "so"]
    assert "; 2 answers of other samples are left out" in capsys.readouterr().out


def test_what_is_exported_loads_again(tmp_path):
    ours(tmp_path)
    run(tmp_path, "--format", "alpaca_eval", "--out", tmp_path / "out.json")
    back = answers.load(tmp_path / "out.json")
    assert back.name == "7b"
    whole = answers.load(tmp_path / "runs/7b", "mt_bench")
    pairs = answers.pair(whole, back, partial=True)
    assert pairs == [("81", 0, "Why?", TEXT, TEXT), ("82", 0, "How?", "", "")]


def test_fastchat_reads_a_line_a_question(tmp_path, capsys):
    os.utime(ours(tmp_path), (1_700_000_000, 1_700_000_000))
    run(tmp_path, "--format", "mt_bench", "--out", tmp_path / "model_answer/7b.jsonl")
    lines = (tmp_path / "model_answer/7b.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines[:-1]]
    assert (
        lines[-1] == ""
        and [row.keys() for row in rows] == [{"question_id", "answer_id", "model_id", "choices", "tstamp"}] * 2
    )
    assert [(row["question_id"], row["model_id"], row["tstamp"]) for row in rows] == [
        (81, "7b", 1.7e9),
        (82, "7b", 1.7e9),
    ]
    assert rows[0]["choices"] == [{"index": 0, "turns": [TEXT]}, {"index": 1, "turns": ["again"]}]
    assert rows[0]["answer_id"] != rows[1]["answer_id"]
    said = capsys.readouterr().out
    assert "2 questions of 7b → " in said and "one turn each: FastChat can judge the first turn only" in said
    before = (tmp_path / "model_answer/7b.jsonl").read_bytes()
    run(tmp_path, "--format", "mt_bench", "--out", tmp_path / "model_answer/7b.jsonl")
    assert (tmp_path / "model_answer/7b.jsonl").read_bytes() == before
    run(tmp_path, "--format", "mt_bench", "--out", tmp_path / "model_answer/mine.jsonl")
    assert "FastChat calls a model by its file's name: mine, not 7b" in capsys.readouterr().out


def test_ids_that_are_no_numbers_stay_as_they_are(tmp_path):
    mine(tmp_path, ("dev-001", "Why?", "so", 0))
    run(tmp_path, "--format", "mt_bench", "--out", tmp_path / "7b.jsonl")
    assert runs.read_jsonl(tmp_path / "7b.jsonl")[0]["question_id"] == "dev-001"


def test_what_the_forms_cannot_hold_is_refused(tmp_path):
    mine(tmp_path, ("81", "Why?", "so", 1))
    with pytest.raises(UserError, match="prompt 81 has samples 1; FastChat reads choice 0 of each"):
        run(tmp_path, "--format", "mt_bench", "--out", tmp_path / "7b.jsonl")
    with pytest.raises(UserError, match="no answers of sample 0; it has samples 1"):
        run(tmp_path, "--format", "alpaca_eval", "--out", tmp_path / "7b.json")
    path = mine(tmp_path, (None, "Why?", "so", 0))
    with pytest.raises(UserError, match="answers without prompt_id; MT-Bench knows a question by its id"):
        run(tmp_path, "--format", "mt_bench", "--out", tmp_path / "7b.jsonl")
    with pytest.raises(UserError, match=r"expected a name that ends in .json for alpaca_eval, found .*7b.jsonl"):
        run(tmp_path, "--format", "alpaca_eval", "--out", tmp_path / "7b.jsonl")
    mine(tmp_path, ("81", "Why?", "so", 0))
    with pytest.raises(UserError, match="holds the answers themselves; name another file"):
        run(tmp_path, "--format", "mt_bench", "--out", path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"] and len(runs.read_jsonl(path)) == 1
