"""Decontamination: shared runs of words against a plain search, and the leak that LIMA's own data has."""

import json
import random

import numpy as np
import pytest

from lima import UserError
from lima.curate import contamination
from lima.curate.contamination import Contamination, prompt_files, prompts


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


WORDS = [f"w{i}" for i in range(40)]


def test_thirteen_words_in_a_row_are_a_leak_and_twelve_are_not():
    leaks = Contamination()
    leaks.add("test 1", " ".join(WORDS[:20]))
    for length, expected in ((13, True), (12, False)):
        text = "Before. " + " ".join(WORDS[3 : 3 + length]) + " after"
        assert (leaks.find(turns("Hello", text)) is not None) is expected
    name, words = leaks.find(turns("W3, w4; W5 w6 w7 w8 w9 w10 w11 w12 w13 — w14 w15!"))
    assert name == "test 1" and words == " ".join(WORDS[3:16])


def test_agrees_with_a_plain_search():
    rng, found = random.Random(0), 0
    for n in (2, 3, 5):
        for _ in range(100):
            asked = [rng.choices("abcdef", k=rng.randint(n, 12)) for _ in range(3)]
            text = rng.choices("abcdefg", k=30)
            runs = {tuple(words[i : i + n]) for words in asked for i in range(len(words) - n + 1)}
            expected = any(tuple(text[i : i + n]) in runs for i in range(len(text) - n + 1))
            leaks = Contamination(n)
            for number, words in enumerate(asked):
                leaks.add(number, " ".join(words))
            assert (leaks.find(turns("zzz", " ".join(text))) is not None) == expected
            found += expected
    assert 50 < found < 290  # both answers were asked for


def test_a_hash_alone_is_no_leak(monkeypatch):
    monkeypatch.setattr(contamination, "MULTIPLIER", np.uint64(1))  # now the same words in any order have one hash
    leaks = Contamination()
    leaks.add("test 1", " ".join(WORDS[:13]))
    assert leaks.find(turns(" ".join(WORDS[:13][::-1]))) is None
    assert leaks.find(turns(" ".join(WORDS[:14]))) is not None


def test_a_short_prompt_counts_as_a_whole_turn_only():
    leaks = Contamination()
    leaks.add("test 2", "What is love?")
    assert leaks.find(turns("what is LOVE", "Baby don't hurt me")) == ("test 2", "what is love")
    assert leaks.find(turns("What is love? And what is hate?", "Well, what is love?")) is None


def test_runs_do_not_go_over_turns():
    leaks = Contamination()
    leaks.add("x", " ".join(WORDS[:13]))
    assert leaks.find(turns(" ".join(WORDS[:6]), " ".join(WORDS[6:13]))) is None


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"messages": turns("ask", "answer", "again")}, ["ask", "again"]),
        ({"conversations": ["ask", "answer"], "source": ""}, ["ask"]),
        ({"question_id": 81, "turns": ["first", "second"]}, ["first", "second"]),
        ({"instruction": "do", "input": "this", "output": "no"}, ["do\nthis"]),
        ({"instruction": "do", "dataset": "helpful_base"}, ["do"]),
        ({"prompt": "ask", "response": "no"}, ["ask"]),
    ],
)
def test_the_usual_forms(tmp_path, row, expected):
    (tmp_path / "p.json").write_text(json.dumps([row]), encoding="utf-8")
    assert [text for _, text in prompts(tmp_path / "p.json")] == expected


@pytest.mark.parametrize("row", [{"id": 1}, ["ask"], "ask", {"messages": ["ask"]}, None])
def test_a_row_without_a_prompt_is_named(tmp_path, row):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "fine"}) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"p\.jsonl: row 1: no prompt in it"):
        list(prompts(path))


def test_files(tmp_path):
    (tmp_path / "a.jsonl").write_text("", encoding="utf-8")
    assert prompt_files([str(tmp_path / "*.jsonl"), str(tmp_path / "a.jsonl")]) == [tmp_path / "a.jsonl"]
    assert prompt_files([str(tmp_path / "*.none")]) == []
    with pytest.raises(UserError, match=r"against: .*b\.jsonl: no such file"):
        prompt_files([str(tmp_path / "b.jsonl")])
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.txt: expected a \.jsonl"):
        list(prompts(tmp_path / "a.txt"))


def test_finds_the_prompt_that_lima_trains_on(shared):
    """PAPER.md: test prompt 83 is train row 547. It is the only one."""
    leaks = Contamination()
    for name, text in prompts(shared / "lima/test.jsonl"):
        leaks.add(name, text)
    rows = [json.loads(line) for line in open(shared / "lima/train.jsonl", encoding="utf-8")]
    found = {number: leaks.find(turns(*row["conversations"])) for number, row in enumerate(rows)}
    found = {number: leak[0].split()[-1] for number, leak in found.items() if leak}
    assert found == {547: "83"}
