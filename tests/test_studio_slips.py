"""Slips of the hand in the studio, in a real browser: what one did not look at is not judged, and no word of a reason is lost."""

import pytest
from studio_driver import (
    PAIR,
    SOON,
    SYSTEMS,
    Studio,
    answers,
    candidates,
    choose,
    enter,
    press,
    tab_to,
    verdicts,
)

from lima import runs
from lima.curate import decisions


@pytest.fixture(scope="module")
def studio(browser, tmp_path_factory):
    """One server with 20 candidates and 12 pairs; every test comes under a name of its own."""
    folder = tmp_path_factory.mktemp("studio")
    candidates(folder / "c.jsonl", 20)
    answers(folder, 12, **SYSTEMS)
    with Studio(folder, "--data", "c.jsonl", *PAIR) as found:
        yield found


def lose_the_way(page):
    """Goes on without a network until an item cannot be fetched; then the network is back."""
    page.context.set_offline(True)
    while page.locator("#error").is_hidden():  # some were fetched ahead
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(50)
    for _ in range(4):  # the first that failed may have been one ahead
        page.keyboard.press("ArrowRight")
    page.context.set_offline(False)
    page.wait_for_timeout(SOON)


def test_a_choice_is_for_what_is_on_screen(studio, page):
    enter(page, studio.url, "compare", "offline")
    lose_the_way(page)
    shown = page.locator(".asked .text").all_inner_texts()
    page.keyboard.press("3")
    page.wait_for_timeout(SOON)
    assert [f"Question {row['prompt_id'][1:]}?" for row in verdicts(studio.folder, "offline")] in ([], shown)


def test_a_decision_is_for_what_is_on_screen(studio, page):
    enter(page, studio.url, "review", "offline")
    lose_the_way(page)
    shown = [words.strip() for words in page.locator("p.id").all_inner_texts()]
    page.keyboard.press("r")
    page.wait_for_timeout(SOON)
    assert decided(studio, "offline") in ([], shown)


def decided(studio, who):
    file = studio.folder / "c.decisions.jsonl"
    return [row["id"] for row in runs.read_jsonl(file) if row["who"] == who] if file.exists() else []


def click_twice(page, words, gap):
    box = page.locator("footer button", has_text=words).bounding_box()
    where = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(*where)
    page.wait_for_timeout(gap)
    page.mouse.click(*where)
    page.wait_for_timeout(SOON)


def test_a_double_click_is_one_choice(studio, page):
    enter(page, studio.url, "compare", "double")
    for n, gap in enumerate((0, 60, 120, 220)):
        page.wait_for_timeout(SOON)
        click_twice(page, "neither", gap)
        assert page.inner_text("#progress") == f"{n + 1} of 12 done" and len(verdicts(studio.folder, "double")) == n + 1


def test_a_double_click_is_one_decision(studio, page):
    enter(page, studio.url, "review", "double")
    page.wait_for_timeout(SOON)
    click_twice(page, "accept", 150)
    assert len(decided(studio, "double")) == 1


def test_a_reason_given_before_an_edit_stays(studio, page):
    enter(page, studio.url, "review", "why")
    page.keyboard.press("w")
    page.keyboard.type("shorter")
    page.keyboard.press("Enter")
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    page.keyboard.type("Short.")
    choose(page, "Control+Enter")
    rows = runs.read_jsonl(studio.folder / "c.decisions.jsonl")
    assert [row["why"] for row in rows if row["who"] == "why"] == ["shorter"]


def test_a_reason_is_for_its_candidate(studio, page):
    enter(page, studio.url, "review", "moved")
    page.keyboard.press("w")
    page.keyboard.type("off topic")
    page.keyboard.press("Enter")
    press(page, "ArrowRight")
    choose(page, "a")
    rows = runs.read_jsonl(studio.folder / "c.decisions.jsonl")
    assert [row["why"] for row in rows if row["who"] == "moved"] == [""]


def test_letters_typed_in_a_filter_decide_nothing(studio, page):
    enter(page, studio.url, "review", "filter")
    tab_to(page, "by-source")
    page.keyboard.press("t")  # "two"
    page.wait_for_timeout(SOON)
    page.keyboard.press("a")
    page.wait_for_timeout(SOON)
    assert decided(studio, "filter") == []


def test_undo_goes_on_after_a_change_of_mind(studio, page):
    enter(page, studio.url, "review", "undo")
    choose(page, "a")
    choose(page, "a")
    press(page, "ArrowLeft")
    choose(page, "r")  # the second one again
    first, second = dict.fromkeys(decided(studio, "undo"))
    press(page, "u")
    page.keyboard.press("u")
    page.wait_for_timeout(SOON)
    standing = decisions.load(studio.folder / "c.decisions.jsonl")
    assert first not in standing and second not in standing
