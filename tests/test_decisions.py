"""decisions.jsonl: what is read, what is refused, and what an edit keeps."""

import json

import pytest

from lima import UserError
from lima.curate import decisions

GOOD = {"id": "a", "decision": "accept", "who": "ada", "when": "2024-05-01T10:00:00Z", "why": "clear"}
TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def written(tmp_path, *rows):
    path = tmp_path / "decisions.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_the_last_line_about_a_row_counts(tmp_path):
    path = written(tmp_path, GOOD, {**GOOD, "id": "b"}, "", {**GOOD, "decision": "reject", "why": "on reflection"})
    found = decisions.load(path)
    assert list(found) == ["a", "b"] and found["a"]["decision"] == "reject" and found["b"]["decision"] == "accept"


def test_no_file_is_no_decision(tmp_path):
    assert decisions.load(tmp_path / "decisions.jsonl") == {}


@pytest.mark.parametrize(
    "row, said",
    [
        ("{", "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        (["a"], "line 2: expected an object, found list"),
        ({**GOOD, "id": ""}, "line 2: `id` is missing"),
        ({**GOOD, "id": 7}, "line 2: `id` is missing"),
        ({k: v for k, v in GOOD.items() if k != "who"}, "line 2: `who` is missing"),
        ({**GOOD, "decision": "maybe"}, "line 2: decision 'maybe'; expected accept, reject, edit"),
        ({**GOOD, "when": "yesterday"}, "line 2: when 'yesterday' is no ISO date"),
        ({**GOOD, "why": 3}, "line 2: `why` is int"),
        ({**GOOD, "decision": "edit"}, "line 2: an edit needs `messages`"),
        ({**GOOD, "decision": "edit", "messages": TURNS[::-1]}, "line 2: turn 0 of the edit: expected role user"),
        ({**GOOD, "decision": "edit", "messages": [{"role": "user", "content": " "}]}, "turn 0 of the edit is empty"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, row, said):
    with pytest.raises(UserError) as error:
        decisions.load(written(tmp_path, GOOD, row))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_not_text(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="not UTF-8"):
        decisions.load(tmp_path / "d.jsonl")


def test_an_edit_keeps_the_original_beside():
    row = {"id": "a", "messages": TURNS, "url": "u"}
    new = [TURNS[0], {"role": "assistant", "content": "B"}]
    made = decisions.apply({**GOOD, "decision": "edit", "messages": new}, row)
    assert made["messages"] == new and made["original"] == TURNS and made["url"] == "u"
    assert made["edited"] == {"who": "ada", "when": GOOD["when"], "why": "clear"}
    assert row["messages"] == TURNS


@pytest.mark.parametrize("decision", [None, GOOD, {**GOOD, "decision": "edit", "messages": TURNS}])
def test_no_edit_leaves_the_row(decision):
    row = {"id": "a", "messages": TURNS}
    assert decisions.apply(decision, row) == row
