"""One site: every row has one line, whatever is wrong with it; names, prompts and the sample follow the seed alone."""

import random

import py7zr
import pytest
from test_stackexchange import BODY, answer, curate, dump, question, row, rules

from lima.curate import ledger, stackexchange

USERS = '<users>\n  <row Id="7" DisplayName="Ada" />\n  <row Id="8" DisplayName="B &amp; C" />\n</users>'


def kept(out):
    return {candidate["id"]: candidate for candidate in ledger.candidates(out)}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(None, 1, 5), question(1), answer(2, 1)], {"row-1": "no_id", "1": "asked", "2": ""}),
        ([row("x", 1, 5), row(-3, 2, 5), row(10**12, 2, 5), row(3, 2, 10**30, ParentId=1)],
         {"row-1": "no_id", "row-2": "no_id", "row-3": "no_id", "row-4": "no_id"}),
        ([question(1), question(1), answer(2, 1)], {"1": "id_twice", "2": ""}),  # the first line of 1 is "asked"
        ([answer(2, 99)], {"2": "no_question"}),
        ([answer(2, "x")], {"2": "no_question"}),
        ([answer(1, 2), answer(3, 1)], {"1": "no_question", "3": "no_question"}),  # 1 is an answer itself
        ([answer(2, 1), question(1)], {"1": "asked", "2": ""}),  # in whatever order
        ([question(1, score=0), answer(2, 1)], {"1": "question_score", "2": "question_dropped"}),
        ([question(1, title="Is this it?"), answer(2, 1), answer(3, 1)],
         {"1": "title_alone", "2": "question_dropped", "3": "question_dropped"}),
        ([question(1), answer(2, 1, 3)], {"1": "no_answer", "2": "answer_score"}),
        ([question(1), answer(2, 1, 20), answer(3, 1, 20)], {"1": "asked", "2": "", "3": "not_the_best"}),
        ([question(1), answer(2, 1, 30, body="<p>short</p>"), answer(3, 1, 20)],
         {"1": "asked", "2": "too_short", "3": "not_the_best"}),  # no second best takes its place
        ([question(1), answer(2, 1, body="<img src='x'/>" * 100)], {"1": "asked", "2": "empty"}),
        ([question(1), answer(2, 1, body="<div>" * 800)], {"1": "asked", "2": "unreadable"}),
        ([question(70_000), answer(300_000, 70_000)], {"70000": "asked", "300000": ""}),
    ],
)  # fmt: skip
def test_every_row_has_one_line(rows, expected, tmp_path):
    counts = curate(dump(tmp_path, *rows), tmp_path / "out")
    lines = list(ledger.lines(tmp_path / "out"))
    assert len(lines) == sum(counts.values()) == len(rows) and expected.items() <= rules(tmp_path / "out").items() | {
        (line["id"].split("/")[-1], line["rule"]) for line in lines
    }


def test_authors_come_from_users_xml(tmp_path):
    dump(tmp_path, question(1), answer(2, 1))
    curate(tmp_path, tmp_path / "without")
    (tmp_path / "bicycles_Users.xml").write_text(USERS)
    curate(tmp_path, tmp_path / "with")
    (before,), (after,) = kept(tmp_path / "without").values(), kept(tmp_path / "with").values()
    assert (before["author"], after["author"]) == ("user 8; question by user 7", "B & C; question by Ada")


def test_an_archive_gives_the_same_as_its_files(tmp_path):
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.mkdir(), packed.mkdir()
    xml = dump(plain, *(part for n in range(1, 40, 2) for part in (question(n), answer(n + 1, n))))
    (plain / "bicycles_Users.xml").write_text(USERS)
    with py7zr.SevenZipFile(packed / "bicycles.stackexchange.com.7z", "w") as archive:
        archive.write(plain / "bicycles_Users.xml", "Users.xml")
        archive.write(xml, "Posts.xml")
    for raw in (plain, packed):
        curate(raw, raw / "out")
    for name in (ledger.CANDIDATES, ledger.LEDGER):
        assert (plain / "out" / name).read_bytes() == (packed / "out" / name).read_bytes()


def test_prompts_are_titles_or_descriptions_by_seed_and_id_alone(tmp_path):
    pairs = [question(n) + answer(n + 1, n) for n in range(1, 200, 2)]
    curate(dump(tmp_path, *pairs), tmp_path / "in order")
    random.Random(0).shuffle(pairs)
    curate(dump(tmp_path, *pairs), tmp_path / "shuffled")
    first = kept(tmp_path / "in order")
    assert first == kept(tmp_path / "shuffled") and len(first) == 100
    titles = sum(candidate["messages"][0]["content"] == candidate["title"] for candidate in first.values())
    assert 30 < titles < 70


def test_the_sample_without_rules_is_so_many_questions_in_whatever_order(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stackexchange: {unfiltered: true, unfiltered_questions: 20}\n")
    pairs = [question(n, score=0) + answer(n + 1, n, -1, body="<p>Mine.</p>") for n in range(1, 400, 2)]
    pairs += [row(1001, 1, 9, BODY, Title="Unanswered", AnswerCount=0), row(1002, 4, 0)]

    def sample(name, seed=0):
        path = dump(tmp_path, *pairs)
        counts = stackexchange.curate(recipe, path, tmp_path / name, seed=seed)
        assert sum(counts.values()) == 402 and counts[""] == 20
        return set(kept(tmp_path / name))

    first = sample("in order")
    random.Random(0).shuffle(pairs)
    assert first == sample("shuffled") != sample("other seed", seed=1)


def test_answers_without_rules_are_any_of_the_question(tmp_path):
    rows = [part for n in range(1, 300, 3) for part in (question(n), answer(n + 1, n, 90), answer(n + 2, n, 0))]
    curate(dump(tmp_path, *rows), tmp_path / "out", unfiltered=True)
    best = sum(int(id.split("/")[-1]) % 3 == 2 for id in kept(tmp_path / "out"))
    assert len(kept(tmp_path / "out")) == 100 and 30 < best < 70
