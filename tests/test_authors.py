"""Examples of one's own → candidates: tags, dialogues, provenance, bad rows."""

import json
from collections import Counter

import pytest

from lima import UserError, runs
from lima.curate import authors, command, ledger

RECIPE = "recipes/data/lima-open.yaml"


def row(prompt, response, **more):
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}], **more}


def curate(folder, *files, config=RECIPE):
    words = ["--config", config, "--raw", *files, "--out", folder / "out"]
    command.run("authors", authors.DEFAULTS, authors.SUFFIXES, authors.curate, "", list(map(str, words)))
    return list(ledger.candidates(folder / "out")), list(ledger.lines(folder / "out"))


def write(path, rows):
    runs.write_jsonl(path, rows)
    return path


def test_starter_set(tmp_path):
    kept, lines = curate(tmp_path, "data/starter.jsonl")
    raw = runs.read_jsonl("data/starter.jsonl")
    assert [one["messages"] for one in kept] == [one["messages"] for one in raw] and len(lines) == len(raw)
    assert Counter(one["group"] for one in kept if one["group"] in ("refusal", "structure")) == Counter(
        tag for one in raw for tag in one.get("tags", ())
    )
    assert Counter(one["source"] for one in kept) == Counter(
        "multi_turn" if len(one["messages"]) > 2 else "authors" for one in raw
    )
    assert len({one["id"] for one in kept}) == len(kept)


def test_columns(tmp_path):
    (tmp_path / "r.yaml").write_text(json.dumps({"authors": {"author": "us", "license": "CC0-1.0"}}))
    rows = [
        row(
            "Why?", "Because.", id="a", source="advice", tags=["refusal", "structure"], score=7, url="https://a.example"
        ),
        {"prompt": "How?", "response": "So.", "author": "Ada", "created": "2026-01-02", "title": "T", "score": "9"},
        {"conversations": ["One?", "Two.", "Three?", "Four."]},
    ]
    kept, _ = curate(tmp_path, write(tmp_path / "own.jsonl", rows), config=tmp_path / "r.yaml")
    shown = [(one["id"], one["source"], one["group"], one["author"], one["license"], one["score"]) for one in kept]
    assert shown == [
        ("authors/a", "authors", "refusal+structure", "us", "CC0-1.0", 7),
        ("authors/1", "authors", "unknown", "Ada", "CC0-1.0", None),
        ("authors/2", "multi_turn", "unknown", "us", "CC0-1.0", None),
    ]
    assert (kept[0]["url"], kept[1]["created"], kept[1]["title"]) == ("https://a.example", "2026-01-02", "T")


def test_rows_are_matched_over_empty_lines_and_cut_turns(tmp_path):
    rows = [row("A?", "a", tags="refusal"), {"conversations": ["B?", "b", "C?"], "tags": ["structure"]}]
    text = "\n\n".join(json.dumps(one) for one in rows)
    (tmp_path / "own.jsonl").write_text(f"\n{text}\n", encoding="utf-8")
    kept, _ = curate(tmp_path, tmp_path / "own.jsonl")
    assert [one["group"] for one in kept] == ["refusal", "structure"]
    assert [message["content"] for message in kept[1]["messages"]] == ["B?", "b"]


def test_two_files(tmp_path):
    one = write(tmp_path / "one.jsonl", [row("A?", "a"), row("B?", "b")])
    two = write(tmp_path / "two.jsonl", [row("B?", "b"), row("C?", "c")])
    kept, _ = curate(tmp_path, one, two)
    assert [one["id"] for one in kept] == ["authors/0", "authors/1", "authors/1@two"]
    assert ledger.counts(tmp_path / "out") == {"": 3, "repeated": 1}


def test_bad_rows_are_refused_as_training_refuses_them(tmp_path):
    path = write(tmp_path / "own.jsonl", [row("A?", "a"), row("B?", " ")])
    with pytest.raises(UserError, match="row 1: turn 1 is empty"):
        curate(tmp_path, path)
    assert list((tmp_path / "out").iterdir()) == []


def test_unknown_key(tmp_path):
    (tmp_path / "r.yaml").write_text(json.dumps({"authors": {"licence": "CC0-1.0"}}))
    with pytest.raises(UserError, match="did you mean license"):
        curate(tmp_path, "data/starter.jsonl", config=tmp_path / "r.yaml")
