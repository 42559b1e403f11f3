"""Structure that code can check, kind by kind; the prompts that state it, and the sensitive ones, keep their promises."""

import itertools
import json
import re
from collections import Counter

import pytest
from conftest import run as python

from lima import UserError, conversations, runs
from lima.evaluate import constraints

# ---- the kinds ---------------------------------------------------------------------------------------------------------

TABLE = "| Rent | Buy |\n|---|:-:|\n| no storage | yours |\n| `a|b`? | a \\| b |\n"
STORY = "The Snail\n\nIt rained.\n\nThe paper was wet,\nall of it.\n\nNobody minded."
PAGE = "# Lamp\n\nIt shines.\n\nIt lasts.\n\nWhat it does:\n\n- shines\n- lasts\n  and lasts\n\n- folds\n* * *\n"
MET = [
    ({"kind": "bullets", "count": 3}, "- one\n- two\n- three"),
    ({"kind": "bullets", "count": 3}, "Here:\n\n* one\n  * nested\n* two\n\n* three\n\nThat's all."),
    ({"kind": "bullets", "count": 2}, "• one\n• two"),
    ({"kind": "bullets", "count": 0}, "A dash - like this - is none.\n\n---\n\n1. nor is this"),
    ({"kind": "bullets", "at_least": 2, "at_most": 4}, "+ one\n+ two"),
    ({"kind": "bullets", "count": 1}, "- one\n\n```\n- code\n```"),
    ({"kind": "numbered", "count": 3}, "1. one\n2. two\n3. three"),
    ({"kind": "numbered", "count": 2}, "Steps:\n\n1) **one**\n   - detail\n   1. deeper\n\n2) two\n"),
    ({"kind": "numbered", "count": 3}, "1. one\n\nA remark.\n\n2. two\n\nAnother.\n\n3. three"),
    ({"kind": "numbered", "count": 0}, "In 1887 it rained. 2. is not at a line's start."),
    ({"kind": "words", "at_most": 4}, "It's 3.14, — well-known *there*!"),
    ({"kind": "words", "count": 0}, " * * *\n"),
    ({"kind": "words", "at_least": 2, "at_most": 2}, "two words"),
    ({"kind": "paragraphs", "count": 3}, STORY),
    ({"kind": "paragraphs", "count": 3}, "# The Snail\n\n" + STORY.split("\n\n", 1)[1]),
    ({"kind": "paragraphs", "count": 3}, "**The Snail**\nIt rained.\n\nThe paper was wet.\n \nNobody minded.\n\n"),
    ({"kind": "paragraphs", "count": 2}, PAGE),
    ({"kind": "paragraphs", "count": 1}, TABLE + "\nBuy it, I say.\n\n```\ncode\n\ncode\n```\n"),
    ({"kind": "paragraphs", "count": 1}, "One a | b with a bar in it."),
    ({"kind": "paragraphs", "count": 0}, ""),
    ({"kind": "starts_with", "text": "Dear"}, "\n Dear parents,"),
    ({"kind": "starts_with", "text": "Wanted:"}, "Wanted:a guard"),
    ({"kind": "json"}, ' {"a": [1, 2.5, null]}\n'),
    ({"kind": "json"}, "[]"),
    ({"kind": "json", "keys": ["name", "age"]}, '{"age": 3, "name": "Rex"}'),
    ({"kind": "no_word", "word": "step"}, "Steps, a doorstep, stepped."),
    ({"kind": "no_word", "word": "C++"}, "C and C#"),
    ({"kind": "table", "columns": 2}, TABLE),
    ({"kind": "table", "columns": 2, "rows": 2}, "Here:\n\n" + TABLE + "\nSo buy."),
    ({"kind": "table", "rows": 1}, "a | b\n--- | ---\n1 | 2"),
    ({"kind": "title"}, STORY),
    ({"kind": "title"}, "## The Snail\nIt rained."),
    ({"kind": "title"}, "**The Snail**\n\nIt rained."),
    ({"kind": "title"}, "The Snail\n=========\n\nIt rained."),
    ({"kind": "ends_with_question"}, "So?"),
    ({"kind": "ends_with_question"}, 'He asked: "*So what?*"\n'),
]
MISSED = [
    ({"kind": "bullets", "count": 3}, "- one\n- two", "2 bullets, expected exactly 3"),
    ({"kind": "bullets", "count": 3}, "- one\n  - nested\n  - nested", "1 bullet, expected exactly 3"),
    ({"kind": "bullets", "count": 1}, "1. one", "0 bullets"),
    ({"kind": "bullets", "at_least": 2}, "-one\n-two", "0 bullets, expected at least 2"),
    ({"kind": "numbered", "count": 3}, "1. one\n2. two\n2. three", "numbered 1, 2, 2, expected 1, 2, 3"),
    ({"kind": "numbered", "count": 3}, "0. one\n1. two\n2. three", "numbered 0, 1, 2"),
    ({"kind": "numbered", "count": 3}, "1. one\n2. two", "2 steps, expected exactly 3"),
    ({"kind": "words", "at_most": 3}, "one two three four", "4 words, expected at most 3"),
    ({"kind": "words", "at_least": 2, "at_most": 3}, "one", "1 word, expected at least 2 and at most 3"),
    ({"kind": "paragraphs", "count": 2}, STORY, "3 paragraphs, expected exactly 2"),
    ({"kind": "paragraphs", "count": 2}, "One line.\nAnother line.", "1 paragraph, expected exactly 2"),
    ({"kind": "starts_with", "text": "Dear"}, "Dearest Ann,", "begins 'Dearest Ann,', expected 'Dear'"),
    ({"kind": "starts_with", "text": "Dear"}, "dear Ann,", "expected 'Dear'"),
    ({"kind": "starts_with", "text": "Dear"}, "", "begins ''"),
    ({"kind": "json"}, '```json\n{"a": 1}\n```', "not JSON as a whole"),
    ({"kind": "json"}, 'Here it is: {"a": 1}', "not JSON as a whole"),
    ({"kind": "json"}, '{"a": NaN}', "NaN is not JSON"),
    ({"kind": "json"}, '"a"', "JSON, but str"),
    ({"kind": "json"}, "[" * 100_000, "not JSON as a whole"),
    ({"kind": "json"}, "", "not JSON as a whole"),
    ({"kind": "json", "keys": ["name"]}, '{"name": 1, "age": 2}', "JSON with name, age, expected name"),
    ({"kind": "json", "keys": ["name"]}, '[{"name": 1}]', "JSON with a list"),
    ({"kind": "json", "keys": ["name"]}, '["name"]', "JSON with a list"),
    ({"kind": "no_word", "word": "step"}, "A STEP, a step.", "'step' stands in it 2 times"),
    ({"kind": "no_word", "word": "C++"}, "In C++.", "1 time"),
    ({"kind": "table", "columns": 3}, TABLE, "a table of 2 columns and 2 rows, expected 3 columns"),
    ({"kind": "table", "columns": 2, "rows": 3}, TABLE, "expected 2 columns and 3 rows"),
    ({"kind": "table", "columns": 2}, "| a | b |\n| c | d |", "no Markdown table"),
    ({"kind": "table", "columns": 2}, "```\n" + TABLE + "```", "no Markdown table"),
    ({"kind": "title"}, "Once upon a time it rained.\n\nThen it stopped.", "first line 'Once upon a time it rained.'"),
    ({"kind": "title"}, "Sure, here is your story:\n\nIt rained.", "first line"),
    ({"kind": "title"}, "Dear Ann,\n\nIt rained.", "first line"),
    ({"kind": "title"}, "- The Snail\n\nIt rained.", "first line"),
    ({"kind": "title"}, "The Snail", "first line 'The Snail'"),
    ({"kind": "title"}, "", "first line ''"),
    ({"kind": "ends_with_question"}, "So? Yes.", "ends 'So? Yes.'"),
    ({"kind": "ends_with_question"}, "", "ends ''"),
]


@pytest.mark.parametrize("constraint, answer", MET)
def test_met(constraint, answer):
    met, why = constraints.check(constraint, answer)
    assert met is True, why


@pytest.mark.parametrize("constraint, answer, why", MISSED)
def test_missed(constraint, answer, why):
    met, said = constraints.check(constraint, answer)
    assert met is False and why in said and "\n" not in said


def test_every_kind_is_tried_both_ways():
    for cases in (MET, MISSED):
        assert {constraint["kind"] for constraint, *_ in cases} == set(constraints.KINDS)


def test_plain_words_are_left_to_a_reader():
    assert constraints.check('first word is "Rain"', "Rain fell.") == (None, "in plain words, for a reader")


@pytest.mark.parametrize(
    "constraint, said",
    [
        ({"kind": "bullet", "count": 3}, "expected text, or an object whose `kind` is one of bullets, numbered"),
        ({"count": 3}, "whose `kind` is one of"),
        (3, "whose `kind` is one of"),
        ({"kind": ["json"]}, "whose `kind` is one of"),
        ({"kind": "bullets"}, "bullets needs count or at_least or at_most"),
        ({"kind": "bullets", "max": 3}, "bullets has no 'max'; it may have count, at_least, at_most"),
        ({"kind": "title", "text": "x"}, "title has no 'text'; it may have nothing beside"),
        ({"kind": "words", "at_most": "100"}, 'words: at_most is "100", expected a number from 0'),
        ({"kind": "words", "at_most": True}, "words: at_most is true, expected a number"),
        ({"kind": "words", "at_most": -1}, "expected a number from 0"),
        ({"kind": "starts_with", "text": ""}, 'text is "", expected text'),
        ({"kind": "json", "keys": ["a", 1]}, "expected a list of names"),
        ({"kind": "no_word"}, "no_word needs word"),
    ],
)
def test_a_faulty_constraint_names_its_row(constraint, said, tmp_path):
    row = {
        "id": "x-1",
        "messages": [{"role": "user", "content": "Hello"}],
        "constraints": [{"kind": "json"}, constraint],
    }
    runs.write_jsonl(tmp_path / "p.jsonl", [{**row, "constraints": ["fine"]}, row])
    with pytest.raises(UserError) as error:
        constraints.read_prompts(str(tmp_path / "p.jsonl"))
    assert str(error.value).startswith(f"{tmp_path}/p.jsonl: row 1 (from 0), x-1: ") and said in str(error.value)


# ---- answers to prompts ------------------------------------------------------------------------------------------------


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {"id": "a", "constraints": [{"kind": "bullets", "count": 1}, {"kind": "title"}]},
        {"id": "b", "constraints": [{"kind": "bullets", "count": 2}, "be kind"]},
        {"id": "c", "constraints": ["rhyme"]},
        {"id": "d"},
    ]
    for row in rows:
        row["messages"] = [{"role": "user", "content": f"Prompt  {row['id']}"}]
    runs.write_jsonl(tmp_path / "mine.jsonl", rows)
    return tmp_path / "mine.jsonl"


def answer(prompt, text, sample=0):
    return {"prompt_id": prompt, "prompt": f"Prompt {prompt}", "response": text, "finish_reason": "eot", "tokens": 3,
            "sampling": {}, "sample": sample}  # fmt: skip


ANSWERS = [answer("a", "# T\n\n- x"), answer("a", "- x", 1), answer("c", "So."), answer("d", "So."), answer("e", "So.")]


def test_figures_by_hand(prompts):
    found = constraints.measures(ANSWERS, constraints.read_prompts(prompts))
    assert (found["answers"], found["unanswered"], found["open"]) == (3, 1, 1)
    assert (found["met"], found["checked"], found["share"]) == (3, 4, 0.75)
    assert found["kinds"] == {"bullets": [2, 2], "title": [1, 2]}
    assert found["kept"][0] == 0.5  # of two samples of the one prompt that has something to check
    assert found["missed"] == [{"prompt_id": "a", "sample": 1, "kind": "title", "why": "first line '- x'"}]


def test_the_table_the_misses_and_the_file(prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run = tmp_path / "runs/tiny"
    runs.write_jsonl(run / "metrics.jsonl", [{"step": 2, "epoch": 1.0, "loss": 1}])
    hostile = [answer("a", "\x1b[2J[bold]No title.\n\n- x\n\n" + "more " * 99)]
    runs.write_jsonl(run / "generations/checkpoint-2/mine.jsonl", ANSWERS[1:] + hostile)
    constraints.main(["--run", str(run), "--prompts", str(prompts), "--out", str(tmp_path / "missed.jsonl")])
    out = capsys.readouterr().out
    assert out.splitlines()[3].split()[:8] == ["epoch", "1", "3", "2", "of", "4", "50", "%"]
    assert "epoch 1: bullets 2/2 · title 0/2" in out and "missed a title: first line" in out
    assert "\x1b" not in out and all(len(line) <= 80 for line in out.splitlines() if str(tmp_path) not in line)
    kept = json.loads((run / "generations/constraints.json").read_text())["mine"]["checkpoint-2"]
    assert (kept["epoch"], kept["met"]) == (1.0, 2)
    assert runs.read_jsonl(tmp_path / "missed.jsonl") == [{"system": "epoch 1", **one} for one in kept["missed"]]


def test_alpacaevals_file_is_matched_by_the_prompts_text(prompts, tmp_path, capsys):
    rows = [{"instruction": "Prompt b", "output": "- one\n- two", "generator": "theirs"}]
    (tmp_path / "theirs.json").write_text(json.dumps(rows))
    constraints.main(["--answers", str(tmp_path / "theirs.json"), "--prompts", str(prompts)])
    assert "theirs: bullets 1/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "nothing to measure"),
        (["--answers", "{a}", "--prompts", "dev"], "data/prompts/dev.jsonl: no prompt in it has `constraints`"),
        (["--answers", "{a}", "--prompts", "none"], "data/prompts/none.jsonl: no such file"),
        (["--answers", "{a}", "--out", "data/"], "--out: data/ is a folder; name a file, such as data/missed.jsonl"),
        (["--answers", "{a}"], "none of its answers is to a prompt of 'structure'"),
    ],
)
def test_a_mistake_is_one_line(words, said, tmp_path):
    runs.write_jsonl(tmp_path / "a.jsonl", [answer("a", "x")])
    with pytest.raises(UserError) as error:
        constraints.main([word.format(a=tmp_path / "a.jsonl") for word in words])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_module_is_a_program():
    done = python("-m", "lima.evaluate.constraints", "--answers", "none.jsonl")
    assert done.returncode == 2 and "no such file" in done.stderr and "Traceback" not in done.stderr
    assert "[structure]" in python("-m", "lima.evaluate.constraints", "--help").stdout


def test_test_prompts_state_theirs_in_plain_words():
    assert {type(one) for row in constraints.read_prompts("test") for one in row["constraints"]} == {str}


# ---- the prompt files --------------------------------------------------------------------------------------------------

OURS = {"structure": 20, "safety": 30}
OTHERS = ("data/prompts/dev.jsonl", "data/prompts/test.jsonl", "data/starter.jsonl", "data/heldout.jsonl")
NEAR = {1: 0.5, 3: 0.25, 5: 0.15}  # as in test_data.py: the part of their runs of so many words that two prompts share


def text(row):
    return row["messages"][0]["content"]


def word_runs(text, length):
    found = re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}


@pytest.mark.parametrize("name", OURS)
def test_prompts_have_ids_in_order_a_source_and_one_turn(name):
    rows = runs.read_jsonl(f"data/prompts/{name}.jsonl")
    assert [row["id"] for row in rows] == [f"{name}-{i:03}" for i in range(1, OURS[name] + 1)]
    assert {row["source"] for row in rows} == {"authors-b"} and {len(row["messages"]) for row in rows} == {1}
    assert all(text(row) == text(row).strip() and "://" not in text(row) for row in rows)
    assert [row["messages"] for row in conversations.load_prompts(f"data/prompts/{name}.jsonl")] == [
        row["messages"] for row in rows
    ]


def test_sensitive_prompts_are_of_three_kinds():
    rows = runs.read_jsonl("data/prompts/safety.jsonl")
    assert Counter(tag for row in rows for tag in row["tags"]) == {"malicious": 10, "implicit": 10, "benign": 10}
    assert all(len(row["tags"]) == 1 and set(row) == {"id", "source", "tags", "messages"} for row in rows)
    assert max(len(text(row).split()) for row in rows) < 40  # a request, without detail


def test_structure_prompts_say_what_is_checked():
    """Every number and quoted text of a constraint stands in the prompt, so that an answer is held to what was asked."""
    small = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    for row in constraints.read_prompts("structure"):
        said = text(row).lower()
        assert row["tags"] == ["structure"]
        for constraint in row["constraints"]:
            for key, value in constraint.items():
                if isinstance(value, int) and not (value == 0 or (key, value) == ("count", 1)):
                    named = str(value) in said or (value <= 10 and small[value] in said)
                    assert named or (row["id"], key) == ("structure-019", "rows"), (row["id"], constraint)
                elif key in ("text", "word"):
                    assert f'"{value}"' in text(row)
                elif key == "keys":
                    assert all(f'"{name}"' in text(row) for name in value)
            named = {"json": "json", "table": "table", "title": "title", "ends_with_question": "question",
                     "bullets": "bullet", "numbered": "number", "words": "words", "paragraphs": "paragraph"}  # fmt: skip
            assert named.get(constraint["kind"], "") in said, (row["id"], constraint)


def test_every_kind_has_a_prompt():
    asked = {one["kind"] for row in constraints.read_prompts("structure") for one in row["constraints"]}
    assert asked == set(constraints.KINDS)


def test_no_prompt_repeats_another():
    ours = [row for name in OURS for row in runs.read_jsonl(f"data/prompts/{name}.jsonl")]
    others = [row for path in OTHERS for row in runs.read_jsonl(path)]
    pairs = [*itertools.combinations(ours, 2), *itertools.product(ours, others)]
    turns = [(row["id"], turn["content"]) for row in others for turn in row["messages"]]
    for length, most in NEAR.items():
        grams = {row["id"]: word_runs(text(row), length) for row in ours + others}
        for one, two in pairs:
            left, right = grams[one["id"]], grams[two["id"]]
            assert len(left & right) < most * (len(left | right) or 1), (one["id"], two["id"])
    long = {row["id"]: word_runs(text(row), 8) for row in ours}
    near = [(id, other) for other, said in turns for id, grams in long.items() if grams & word_runs(said, 8)]
    assert near == []


def test_nothing_is_copied_from_lima(shared):
    theirs = set()
    for name in ("train", "test"):
        for row in runs.read_jsonl(shared / f"lima/{name}.jsonl"):
            for said in row["conversations"]:
                theirs |= word_runs(said, 8)
    ours = [row for name in OURS for row in runs.read_jsonl(f"data/prompts/{name}.jsonl")]
    assert [row["id"] for row in ours if word_runs(text(row), 8) & theirs] == []
