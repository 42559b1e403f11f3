"""Dumps → candidates and a ledger: a small dump written here, broken ones, and the real ones where they lie beside the repo."""

import hashlib
from collections import Counter
from html import escape
from pathlib import Path

import pytest
from conftest import run

from lima import UserError
from lima.curate import ledger, stackexchange

CONFIG = "recipes/data/lima-open.yaml"
BODY = "<p>" + "The chain wants oil, and the wheel wants air. " * 30 + "</p>"


def row(id, kind, score, body=BODY, **more):
    """A row of Posts.xml."""
    given = {
        "Id": id,
        "PostTypeId": kind,
        "Score": score,
        "Body": body,
        "CreationDate": "2014-01-02T03:04:05.678",
        **more,
    }
    return (
        "  <row "
        + " ".join(f'{key}="{escape(str(value))}"' for key, value in given.items() if value is not None)
        + " />\n"
    )


def question(id, score=20, title="How do I keep the chain of a bicycle quiet?", **more):
    return row(id, 1, score, Title=title, OwnerUserId=7, AnswerCount=1, **more)


def answer(id, parent, score=15, **more):
    return row(id, 2, score, ParentId=parent, OwnerUserId=8, **more)


def dump(folder, *rows, site="bicycles", end="</posts>"):
    path = folder / f"{site}_Posts.xml"
    path.write_text('\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "".join(rows) + end, encoding="utf-8")
    return path


def curate(raw, out, **more):
    return stackexchange.curate(CONFIG, raw, out, **more)


def rules(out):
    return {line["id"].split("/")[-1]: line["rule"] for line in ledger.lines(out)}


def test_the_best_answer_of_a_good_question_is_kept_with_its_source(tmp_path):
    counts = curate(dump(tmp_path, question(1), answer(2, 1, 15), answer(3, 1, 30)), tmp_path / "out")
    (kept,) = ledger.candidates(tmp_path / "out")
    assert kept["id"].endswith("/3") and kept["group"] == "bicycles" and kept["score"] == 20  # the question's
    assert kept["source"] == "stackexchange_other" and kept["license"] == "CC BY-SA 3.0"
    assert kept["url"].startswith("https://bicycles.stackexchange.com/")
    assert [turn["role"] for turn in kept["messages"]] == ["user", "assistant"]
    assert rules(tmp_path / "out")["2"] == "not_the_best" and sum(counts.values()) == 3 == counts[""] + 2


@pytest.mark.parametrize(
    ("rows", "id", "rule"),
    [
        ([question(1), answer(2, 1, 9)], "2", "answer_score"),
        ([question(1), answer(2, 1, body="<p>Too short.</p>")], "2", "too_short"),
        ([question(1), answer(2, 1, body=BODY * 4)], "2", "too_long"),
        ([question(1), answer(2, 1, body=BODY + "<p>I have done so for years.</p>")], "2", "first_person"),
        ([question(1), answer(2, 1, body=BODY + "<p>As mentioned, oil it.</p>")], "2", "reference"),
        ([question(1, score=1), answer(2, 1)], "1", "question_score"),
        ([question(1, title="What is this?"), answer(2, 1)], "1", "title_alone"),
        ([row(1, 4, 0)], "1", "other_type"),
    ],
)
def test_each_rule_drops_its_row(rows, id, rule, tmp_path):
    counts = curate(dump(tmp_path, *rows), tmp_path / "out")
    assert rules(tmp_path / "out")[id] == rule and counts[""] == 0 and sum(counts.values()) == len(rows)


def test_without_rules_of_quality_all_that_is_answered_may_come(tmp_path):
    path = dump(
        tmp_path, question(1, score=0, title="What is this?"), answer(2, 1, 0, body="<p>I think it is oil.</p>")
    )
    assert curate(path, tmp_path / "out", unfiltered=True)[""] == 1


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.parquet")}


def test_the_same_seed_gives_the_same_bytes_however_many_processes(tmp_path):
    rows = [part for n in range(1, 60, 2) for part in (question(n), answer(n + 1, n))]
    raw = tmp_path / "raw"
    raw.mkdir()
    for site in ("bicycles", "cooking"):
        dump(raw, *rows, site=site)
    curate(raw, tmp_path / "one")
    curate(raw, tmp_path / "two", processes=2)
    curate(raw, tmp_path / "other", seed=1)
    assert digests(tmp_path / "one") == digests(tmp_path / "two") != digests(tmp_path / "other")


def test_a_second_time_does_nothing(tmp_path, capsys):
    path = dump(tmp_path, question(1), answer(2, 1))
    curate(path, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    curate(path, tmp_path / "out")
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}


BOMB = b'<?xml version="1.0"?><!DOCTYPE p [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><posts><row Id="1" Body="&b;"/></posts>'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (b"PK\x03\x04 not xml", "not an XML file"),
        (BOMB, "refused"),
        (b'<posts>\n<row Id="1" PostTypeId="1" Score="5"\n', "line"),
        (b'<posts>\n<row Id="1" PostTypeId="1" Score="5" Title="\xff\xfe"/>\n</posts>', "UTF-8|line"),
    ],
)
def test_a_broken_file_is_one_line_and_leaves_nothing(content, says, tmp_path):
    path = tmp_path / "bicycles_Posts.xml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        curate(path, tmp_path / "out")
    assert "\n" not in str(error.value) and not list((tmp_path / "out").glob("*.parquet"))


def test_what_was_read_of_a_file_that_ends_early_is_kept_only_if_asked(tmp_path):
    path = dump(tmp_path, question(1), answer(2, 1), end='  <row Id="3" PostTy')
    with pytest.raises(UserError, match="line"):
        curate(path, tmp_path / "out")
    assert curate(path, tmp_path / "out", keep_truncated=True)[""] == 1


def test_a_slip_is_one_line_and_exit_code_2(tmp_path):
    done = run(
        "-m", "lima.curate.stackexchange", "--config", CONFIG, "--raw", tmp_path / "none", "--out", tmp_path / "out"
    )
    assert done.returncode == 2 and "no such file or folder" in done.stderr and "Traceback" not in done.stderr


def test_the_real_dumps_add_up(shared, tmp_path):
    """As many lines in the ledger as a plain count of `<row` in the files."""
    counts = curate(shared / "stackexchange", tmp_path / "out")
    files = [p for p in (shared / "stackexchange").glob("*.xml") if "french" not in p.name]  # no site of the table's
    assert sum(counts.values()) == sum(Path(p).read_bytes().count(b"<row ") for p in files)
    lines = Counter(line["rule"] for line in ledger.lines(tmp_path / "out"))
    assert {**lines} == {rule: n for rule, n in counts.items() if n} and 10 < counts[""] < 200
    for candidate in ledger.candidates(tmp_path / "out"):
        assert (
            candidate["score"] >= 3
            and candidate["url"].startswith("https://")
            and candidate["license"].startswith("CC BY-SA")
        )
