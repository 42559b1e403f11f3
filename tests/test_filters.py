"""The rules, each with what it drops and what it lets pass, and GAIR/lima's own answers as the yardstick."""

import json

import pytest

from lima.curate import filters, stackexchange
from lima.curate.filters import Post
from lima.curate.rules import first

LONG = "The wheel turns on its bearing, and the bearing wants grease. " * 25


@pytest.fixture(scope="module")
def settings():
    return stackexchange.read_settings("recipes/data/lima-open.yaml")


def answer(said, score=20, html=LONG):
    return Post(score, html, text=said)


@pytest.mark.parametrize(
    "said",
    [
        "I have used this for years.",
        "In my experience it rusts.",
        "That happened to me last week.",
        "We tried; then I gave up.",
        "`I` is a key. My bike has none.",
    ],
)
def test_the_first_person_is_dropped(said, settings):
    assert filters.first_person(answer(said), settings)


@pytest.mark.parametrize(
    "said",
    [
        "A Type I error is a false alarm.",
        "World War I began in 1914.",
        "Press Ctrl+Shift+I to open it.",
        "File form I-407 and check the I/O log.",
        'She writes "I am not my brother" there.',
        "Set ```i = I + 1``` first.",
        "The current $I$ is small.",
        "> I said so\nand the text goes on.",
        "I'll explain below.",
        "I would recommend a softer brush.",
        "Edward I built it.",
    ],
)
def test_what_is_no_first_person_passes(said, settings):
    assert filters.first_person(answer(said), settings) == ""


@pytest.mark.parametrize(
    "said", ["As mentioned, it rusts.", "Stack Exchange has more.", "The other answers miss it.", "See Tom's answer.",
             "As others have pointed out, it rusts.", "The accepted answer is old."],
)  # fmt: skip
def test_references_to_other_answers_are_dropped(said, settings):
    assert filters.reference(answer(said), settings)


@pytest.mark.parametrize(
    "said",
    ["The answer is four.", "Mention it to the driver.", 'He asks "as mentioned?" twice.', "The stack grows down."],
)
def test_what_refers_to_no_answer_passes(said, settings):
    assert filters.reference(answer(said), settings) == ""


@pytest.mark.parametrize(
    ("rule", "drops", "passes"),
    [
        (filters.answer_score, answer("", score=9), answer("", score=10)),
        (filters.too_short, answer("", html="x" * 1199), answer("", html="x" * 1200)),
        (filters.too_long, answer("", html="x" * 4097), answer("", html="x" * 4096)),
        (filters.question_score, Post(2, ""), Post(3, "")),
        (filters.title_alone, Post(9, "", "Why is this slow?"), Post(9, "", "Why is quicksort slow on sorted input?")),
        (filters.title_alone, Post(9, "", "Help needed please"), Post(9, "", "How do tides follow the moon?")),
    ],
)
def test_thresholds_and_titles(rule, drops, passes, settings):
    assert rule(drops, settings) and rule(passes, settings) == ""


def test_length_is_measured_where_the_recipe_says(settings):
    short_text = answer("x" * 1000, html="x" * 1300)
    before, after = filters.answer_rules({**settings, "length_of": "text"})
    assert (
        filters.too_short not in before
        and first(after, short_text, {**settings, "length_of": "text"})[0] == "too_short"
    )
    before, after = filters.answer_rules(settings)
    assert filters.too_short in before and first(before, short_text, settings) == ("", "")


def test_gair_limas_own_answers_pass(shared, settings):
    rows = [json.loads(line) for line in (shared / "lima/train.jsonl").open(encoding="utf-8")]
    answers = [row["conversations"][1] for row in rows if row["source"] == "stackexchange"]
    assert len(answers) == 400
    for rule, share in ((filters.first_person, 0.95), (filters.reference, 0.98)):
        passed = sum(rule(answer(said), settings) == "" for said in answers)
        assert passed >= share * 400, f"{rule.__name__}: {passed}"
