"""The bundled data keeps its promises: counts, lengths, tags, and no prompt that is asked twice."""

import itertools
import json
import re
from collections import Counter

import pytest
from conftest import ROOT

FILES = {
    "starter": "data/starter.jsonl",
    "heldout": "data/heldout.jsonl",
    "dev": "data/prompts/dev.jsonl",
    "test": "data/prompts/test.jsonl",
}
MORE = {
    name: f"data/prompts/{name}.jsonl" for name in ("safety", "structure", "dialogue")
}  # they have tests of their own
# Two prompts are near-duplicates when this part of their runs of so many words is shared (Jaccard).
# The closest of today's pairs share 0.33, 0.08 and 0.03.
NEAR = {1: 0.5, 3: 0.25, 5: 0.15}
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
URL = re.compile(r"\w+://|\bwww\.|\b[\w-]+\.(com|org|net|edu|gov|io|dev|ai)\b", re.IGNORECASE)


def read(name):
    lines = (ROOT / {**FILES, **MORE}[name]).read_bytes().decode("utf-8").split("\n")
    assert lines.pop() == ""  # every row is a whole line
    return [json.loads(line) for line in lines]


def tagged(name, tag):
    return [row for row in read(name) if tag in row.get("tags", [])]


def singles():
    return [row for row in read("starter") if len(row["messages"]) == 2]


def dialogues():
    return [row for row in read("starter") if len(row["messages"]) > 2]


def prompts():
    """`(id, first prompt)` of all files."""
    return [(row["id"], row["messages"][0]["content"]) for name in (*FILES, *MORE) for row in read(name)]


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))


def word_runs(text, length):
    found = words(text)
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}


def shared_part(left, right):
    """Jaccard index of two sets of runs; nothing is shared where both are too short to have one."""
    return len(left & right) / (len(left | right) or 1)


def all_text(row):
    """Everything in a row that a person reads."""
    return "\n".join([turn["content"] for turn in row["messages"]] + row.get("constraints", []))


everywhere = pytest.mark.parametrize("name", FILES)


# ---- form ------------------------------------------------------------------------------------------------------------


@everywhere
def test_every_row_has_an_id_a_source_and_messages(name):
    for row in read(name):
        assert set(row) <= {"id", "source", "tags", "constraints", "messages"}
        assert row["id"] and row["source"]
        assert all(set(turn) == {"role", "content"} for turn in row["messages"])


@everywhere
def test_turns_alternate_and_hold_trimmed_text(name):
    for row in read(name):
        roles = [turn["role"] for turn in row["messages"]]
        assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))], row["id"]
        assert all(turn["content"] and turn["content"] == turn["content"].strip() for turn in row["messages"]), row[
            "id"
        ]


@pytest.mark.parametrize(
    ("name", "last"), [("starter", "assistant"), ("heldout", "assistant"), ("dev", "user"), ("test", "user")]
)
def test_examples_end_on_a_response_and_prompts_on_a_user_turn(name, last):
    assert {row["messages"][-1]["role"] for row in read(name)} == {last}


def test_ids_are_unique_over_all_files():
    assert [id for id, count in Counter(id for id, _ in prompts()).items() if count > 1] == []


# ---- counts ----------------------------------------------------------------------------------------------------------


def test_starter_has_150_single_turn_examples_or_more():
    assert len(singles()) >= 150


def test_starter_has_12_dialogues_or_more_of_2_to_4_exchanges():
    assert len(dialogues()) >= 12
    assert {len(row["messages"]) // 2 for row in dialogues()} <= {2, 3, 4}


def test_single_turn_responses_have_60_to_400_words():
    lengths = {row["id"]: len(row["messages"][1]["content"].split()) for row in singles()}
    assert {id: length for id, length in lengths.items() if not 60 <= length <= 400} == {}


@pytest.mark.parametrize(("tag", "count"), [("refusal", 5), ("structure", 6)])
def test_starter_has_its_tagged_examples(tag, count):
    assert len(tagged("starter", tag)) == count
    assert {tag for row in read("starter") for tag in row.get("tags", [])} == {"refusal", "structure"}


@pytest.mark.parametrize(("name", "count"), [("dev", 50), ("test", 100)])
def test_prompt_files_have_their_size_and_one_turn_a_prompt(name, count):
    assert [len(row["messages"]) for row in read(name)] == [1] * count


@pytest.mark.parametrize(("tag", "count"), [("sensitive", 20), ("structure", 10)])
def test_test_prompts_have_their_tags(tag, count):
    assert len(tagged("test", tag)) == count


def test_structure_prompts_and_no_others_state_their_constraints():
    with_constraints = [row for row in read("test") if "constraints" in row]
    assert [row["id"] for row in with_constraints] == [row["id"] for row in tagged("test", "structure")]
    for row in with_constraints:
        assert row["constraints"] and all(isinstance(text, str) and text.strip() for text in row["constraints"])


def test_dev_prompts_carry_no_tags():
    assert not [row["id"] for row in read("dev") if "tags" in row]


# ---- no prompt twice -------------------------------------------------------------------------------------------------


def test_no_two_prompts_are_the_same_but_for_case_white_space_and_punctuation():
    seen = {}
    for id, text in prompts():
        seen.setdefault(" ".join(words(text)), []).append(id)
    assert [ids for ids in seen.values() if len(ids) > 1] == []


def test_no_user_turn_of_a_dialogue_is_a_prompt_elsewhere():
    asked = {" ".join(words(text)): id for id, text in prompts()}
    later = [" ".join(words(turn["content"])) for row in dialogues() for turn in row["messages"][2::2]]
    assert [asked[text] for text in later if text in asked] == []


@pytest.mark.parametrize("length", NEAR)
def test_no_two_prompts_share_many_runs_of_words(length):
    pairs = itertools.combinations([(id, word_runs(text, length)) for id, text in prompts()], 2)
    assert [(one, two) for (one, left), (two, right) in pairs if shared_part(left, right) >= NEAR[length]] == []


@pytest.mark.parametrize("length", NEAR)
def test_a_prompt_with_every_eighth_word_changed_would_be_found(length):
    """The thresholds bite, on every prompt of a dozen words or more."""
    for id, text in prompts():
        found = words(text)
        copy = " ".join("zebra" if i % 8 == 7 else word for i, word in enumerate(found))
        if len(found) >= 12:
            assert shared_part(word_runs(text, length), word_runs(copy, length)) >= NEAR[length], id


def test_no_two_responses_are_the_same():
    texts = [turn["content"] for name in FILES for row in read(name) for turn in row["messages"][1::2]]
    assert len(set(texts)) == len(texts)


def test_nothing_is_copied_from_lima(shared):
    """No run of ten words stands in GAIR/lima too, whose licence is not ours."""
    theirs = set()
    for name in ("train", "test"):
        for line in (shared / f"lima/{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
            for text in json.loads(line)["conversations"]:
                theirs |= word_runs(text, 10)
    rows = [row for name in FILES for row in read(name)]
    assert [row["id"] for row in rows if any(word_runs(turn["content"], 10) & theirs for turn in row["messages"])] == []


# ---- no addresses ----------------------------------------------------------------------------------------------------


@everywhere
def test_there_is_no_url(name):
    # The host of an e-mail address has its own test, below.
    found = {row["id"]: URL.search(EMAIL.sub("", all_text(row))) for row in read(name)}
    assert [(id, match.group()) for id, match in found.items() if match] == []


@everywhere
def test_there_is_no_email_address(name):
    found = {row["id"]: EMAIL.search(all_text(row)) for row in read(name)}
    assert [(id, match.group()) for id, match in found.items() if match] == []
