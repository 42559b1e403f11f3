"""Posts.xml + Comments.xml → dialogue chains and a ledger: small dumps written here, broken ones, and comments made for the ids
and users of the real dumps where they lie beside the repo (no real Comments.xml is there)."""

import hashlib
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from html import escape
from xml.etree import ElementTree

import py7zr
import pytest
import yaml
from conftest import ROOT, run
from test_stackexchange import BODY, BOMB, answer, dump, question

from lima import UserError, conversations
from lima.curate import dialogues, ledger, mixture

CONFIG = "recipes/data/lima-open.yaml"
ASK, REPLY = (
    "Does it hold for a wheel in the rain as well?",
    "It does, because rain washes out the oil and the dirt alike.",
)
MORE = "And what about snow, which is colder than rain?"
USERS = '<users>\n  <row Id="7" DisplayName="Ada Lovelace" />\n  <row Id="8" DisplayName="B &amp; C" />\n'
USERS += '  <row Id="9" DisplayName="Carl" />\n</users>'


def comment(id, user, text, post=2, at=None, **more):
    """A row of Comments.xml, in the dump's form; a `user` in words is one who was deleted."""
    who = {"UserId": user} if isinstance(user, int) else {"UserDisplayName": user} if user else {}
    when = at or f"2014-03-13T21:{id % 60:02}:31.357"
    given = {"Id": id, "PostId": post, "Score": 0, "Text": text, "CreationDate": when, **who}
    given = {**given, "ContentLicense": "CC BY-SA 3.0", **more}
    words = (f'{key}="{escape(str(value))}"' for key, value in given.items() if value is not None)
    return f"  <row {' '.join(words).replace(chr(10), '&#xA;')} />\n"


def said(folder, *rows, site="bicycles", end="</comments>"):
    path = folder / f"{site}_Comments.xml"
    head = '\ufeff<?xml version="1.0" encoding="utf-8"?>\n<comments>\n'
    path.write_text(head + "".join(rows) + end, encoding="utf-8")
    return path


def site(folder, *rows, posts=None, **more):
    """A dump of a question, its answer, and these comments; returns the folder."""
    folder.mkdir(exist_ok=True)
    dump(folder, *(posts or (question(1), answer(2, 1))), **more)
    said(folder, *rows, **more)
    return folder


def curate(raw, out, config=CONFIG, **more):
    return dialogues.curate(config, raw, out, **more)


def kept(out):
    return list(ledger.candidates(out))


def turns(out):
    """What is said in the comments of the only dialogue."""
    (one,) = kept(out)
    return [turn["content"] for turn in one["messages"][2:]]


def rules(out):
    return {line["id"].split("/")[-1]: line["rule"] for line in ledger.lines(out)}


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.parquet")}


def test_a_chain_is_kept_with_all_that_made_it(tmp_path):
    raw = site(tmp_path / "raw", comment(1, 7, f"@Somebody {ASK}"), comment(2, 8, f"@Ada [{REPLY}](http://x.org)"))
    counts = curate(raw, tmp_path / "out")
    (row,) = kept(tmp_path / "out")
    text = " ".join(re.sub("<.*?>", "", BODY).split())
    title = "How do I keep the chain of a bicycle quiet?"
    assert row == {
        "id": "dialogues/bicycles/2",
        "source": "multi_turn",
        "messages": [
            {"role": "user", "content": f"{title}\n\n{text}"},
            {"role": "assistant", "content": text},
            {"role": "user", "content": ASK},
            {"role": "assistant", "content": REPLY},
        ],
        "url": "https://bicycles.stackexchange.com/a/2",
        "author": "user 8; question and comments by user 7",
        "license": "CC BY-SA 3.0",
        "score": 15,  # the answer's
        "group": "bicycles",
        "created": "2014-03-13",
        "title": title,
    }
    assert counts == {"": 1} and [line["rule"] for line in ledger.lines(tmp_path / "out")] == [""]


@pytest.mark.parametrize(
    ("rows", "posts", "rule"),
    [
        ([comment(1, 7, ASK)], None, "no_reply"),
        ([comment(1, 8, REPLY), comment(2, 7, ASK)], None, "no_reply"),
        ([comment(1, 7, "Thanks!"), comment(2, 8, "You're welcome :)")], None, "acknowledgement"),
        ([comment(1, 7, ASK), comment(2, 9, REPLY), comment(3, 8, REPLY)], None, "interrupted"),
        ([comment(1, 7, ASK), comment(2, "user39", REPLY), comment(3, 8, REPLY)], None, "interrupted"),
        ([comment(1, 7, ASK), comment(2, None, REPLY), comment(3, 8, REPLY)], None, "interrupted"),
        ([comment(1, 7, ASK), comment(2, 8, "I have edited my answer.")], None, "site_talk"),
        ([comment(1, 7, ASK), comment(2, 8, "http://x.org/why")], None, "nothing_left"),
        ([comment(1, 7, "Why?"), comment(2, 8, REPLY)], None, "short_follow_up"),
        ([comment(1, 7, ASK), comment(2, 8, "Because of rain.")], None, "short_reply"),
        ([comment(1, 7, ASK), comment(2, 8, REPLY)], [question(1), answer(2, 1, 2)], "answer_score"),
        ([comment(1, 7, ASK), comment(2, 7, REPLY)], [question(1), answer(2, 1).replace('UserId="8"', 'UserId="7"')], "own_answer"),
        ([comment(1, 7, ASK), comment(2, "user8", REPLY)],
         [question(1), answer(2, 1).replace('OwnerUserId="8"', 'OwnerDisplayName="user8"')], "deleted_user"),
        ([comment(1, "user7", ASK), comment(2, 8, REPLY)],
         [question(1).replace('OwnerUserId="7"', 'OwnerDisplayName="user7"'), answer(2, 1)], "deleted_user"),
        ([comment(1, 7, ASK), comment(2, 8, REPLY)], [question(1), answer(2, 1, body="<img src='x'/>")], "empty"),
        ([comment(1, 7, ASK), comment(2, 8, REPLY)], [question(1), answer(2, 1, body="<div>" * 800)], "unreadable"),
    ],
)  # fmt: skip
def test_each_rule_drops_its_chain(rows, posts, rule, tmp_path):
    counts = curate(site(tmp_path / "raw", *rows, posts=posts), tmp_path / "out")
    (line,) = ledger.lines(tmp_path / "out")
    assert (
        counts == {rule: 1}
        and line["rule"] == rule
        and line["id"] == "dialogues/bicycles/2"
        and line["group"] == "bicycles"
    )


@pytest.mark.parametrize(
    ("rows", "posts"),
    [
        ([comment(1, 8, REPLY)], None),  # the asker said nothing
        ([comment(1, 7, ASK, post=1), comment(2, 8, REPLY, post=1)], None),  # under the question
        ([comment(1, 7, ASK, post=99), comment(2, 7, ASK, post="x"), comment(3, 7, ASK, post=-1)], None),
        ([comment(1, 7, ASK)], [answer(2, 1)]),  # its question is not in the dump
        ([comment(1, None, ASK)], [question(1).replace('OwnerUserId="7"', ""), answer(2, 1)]),  # nobody knows who asked
        ([], None),
    ],
)
def test_what_is_no_chain_has_no_line(rows, posts, tmp_path):
    assert curate(site(tmp_path / "raw", *rows, posts=posts), tmp_path / "out") == {}
    assert not list(ledger.lines(tmp_path / "out")) and not kept(tmp_path / "out")


def test_time_orders_the_comments_and_ids_those_of_one_moment(tmp_path):
    moment = "2014-03-13T21:06:31.357"
    rows = [comment(4, 8, REPLY + " 4", at=moment), comment(3, 7, ASK + " 3", at=moment)]
    rows += [comment(9, 7, ASK + " 9", at="2014-03-13T20"), comment(2, 8, REPLY + " 2", at="2014-03-13T20:01")]
    for number, order in enumerate((rows, rows[::-1])):
        curate(site(tmp_path / f"raw{number}", *order), tmp_path / f"out{number}")
        assert turns(tmp_path / f"out{number}") == [ASK + " 9", REPLY + " 2", ASK + " 3", REPLY + " 4"]


def test_what_one_person_goes_on_to_say_is_one_turn_and_a_comment_counts_once(tmp_path):
    rows = [
        comment(1, 7, ASK),
        comment(2, 7, "(rain of an hour)"),
        comment(3, 8, REPLY),
        comment(3, 8, REPLY),
        comment(4, 8, "So yes,\nit does."),
    ]
    curate(site(tmp_path / "raw", *rows), tmp_path / "out")
    assert turns(tmp_path / "out") == [f"{ASK}\n\n(rain of an hour)", f"{REPLY}\n\nSo yes, it does."]


def test_a_post_that_comes_twice_counts_once(tmp_path):
    posts = [question(1), answer(2, 1), answer(2, 1, 1), question(1, title="Which oil is it that keeps a chain quiet?")]
    assert curate(site(tmp_path / "raw", comment(1, 7, ASK), comment(2, 8, REPLY), posts=posts), tmp_path / "out") == {
        "": 1
    }
    assert kept(tmp_path / "out")[0]["score"] == 15 and "bicycle" in kept(tmp_path / "out")[0]["title"]


def recipe(path, **section):
    path.write_text(yaml.safe_dump({"extends": str(ROOT / CONFIG), "dialogues": section}))
    return path


def test_the_settings_are_the_recipes(tmp_path):
    rows = [comment(n, (8, 7)[n % 2], (REPLY, ASK)[n % 2]) for n in range(1, 20)]
    raw = site(tmp_path / "raw", *rows, comment(20, 9, "And so on.", at="2014-03-13T21:04:40"))
    for section, count in [
        ({}, 4),
        ({"others": "skip"}, 6),
        ({"others": "skip", "most_turns": 5}, 2),
        ({"others": "skip", "most_turns": 40}, 18),
        ({"reply_characters": 100}, 0),
        ({"answer_min_score": 16}, 0),
        ({"site_talk": ["wheel"]}, 0),
    ]:
        out = tmp_path / str(section)
        curate(raw, out, recipe(tmp_path / "r.yaml", **section))
        assert sum(len(row["messages"]) - 2 for row in kept(out)) == count


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"most_turns": 3}, "most_turns: expected 4 or more"),
        ({"others": "stop"}, "others: expected end or skip; found 'stop'"),
        ({"site_talk": ["(a"]}, r"site_talk: '\(a' is not a regular expression"),
        ({"acknowledgements": [3]}, "acknowledgements: 3 is not a regular expression"),
        ({"replies": 3}, "key 'replies' is not known"),
        ({"answer_min_score": "high"}, "answer_min_score: expected int"),
    ],
)
def test_a_recipe_that_cannot_be_is_named(section, says, tmp_path):
    path = recipe(tmp_path / "r.yaml", **section)
    with pytest.raises(UserError, match=says) as error:
        curate(site(tmp_path / "raw"), tmp_path / "out", path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_names_come_from_users_xml_and_say_whom_a_comment_is_for(tmp_path):
    talk = [(9, "Nice."), (7, "@Carl What about you, then?"), (8, "@carl No, it is not."), (7, "@B&C " + ASK),
            (8, "@Ada Lovelace, " + REPLY), (7, "@Formerly " + MORE), (8, "@AdaLovelace " + REPLY),
            (7, "@Carl I agree with you on this."), (8, REPLY)]  # fmt: skip
    rows = [comment(n, *words) for n, words in enumerate(talk)]
    raw = site(tmp_path / "raw", *rows)
    (raw / "bicycles_Users.xml").write_text(USERS)
    curate(raw, tmp_path / "out")
    assert turns(tmp_path / "out") == [ASK, REPLY, MORE, REPLY]
    assert kept(tmp_path / "out")[0]["author"] == "B & C; question and comments by Ada Lovelace"
    (line,) = ledger.lines(tmp_path / "out")
    assert line["detail"] == "6 turns, ended by interrupted"


def test_of_two_whom_a_name_calls_it_is_the_partner(tmp_path):
    raw = site(tmp_path / "raw", comment(1, 9, "Nice."), comment(2, 7, ASK), comment(3, 8, "@Ada " + REPLY))
    (raw / "bicycles_Users.xml").write_text(USERS.replace("Carl", "Ada"))
    curate(raw, tmp_path / "out")
    assert turns(tmp_path / "out") == [ASK, REPLY]


def test_the_licence_is_that_of_the_newest_part(tmp_path):
    late, none = "2019-01-01T00:00:00.000", {"ContentLicense": None}
    for n, (more, posts, license, created) in enumerate([
        ({}, None, "CC BY-SA 3.0", "2014-03-13"),
        (none, None, "CC BY-SA 3.0", "2014-03-13"),  # older dumps do not say it: by date
        ({**none, "at": late}, None, "CC BY-SA 4.0", "2019-01-01"),
        ({}, [question(1, ContentLicense="CC BY-SA 4.0"), answer(2, 1)], "CC BY-SA 4.0", "2014-03-13"),
        ({}, [question(1), answer(2, 1, ContentLicense="CC BY-SA 4.0")], "CC BY-SA 4.0", "2014-03-13"),
    ]):  # fmt: skip
        raw = site(tmp_path / f"raw{n}", comment(1, 7, ASK), comment(2, 8, REPLY, **more), posts=posts)
        curate(raw, tmp_path / f"out{n}")
        (row,) = kept(tmp_path / f"out{n}")
        assert (row["license"], row["created"]) == (license, created)


def big(folder, count=200, **more):
    """A dump of `count` answers with up to five comments each."""
    draw, rows = random.Random(0), []
    for n in range(count):
        speakers = draw.choices((7, 8, 9), (4, 4, 1), k=draw.randrange(6))
        rows += [
            comment(6 * n + k, who, draw.choice((ASK, REPLY, MORE, "Thanks!")), post=2 * n + 2)
            for k, who in enumerate(speakers)
        ]
    return site(
        folder,
        *rows,
        posts=[part for n in range(count) for part in (question(2 * n + 1), answer(2 * n + 2, 2 * n + 1))],
        **more,
    )


def test_every_form_of_a_dump_gives_the_same(tmp_path):
    plain, forms = big(tmp_path / "plain"), {}
    (plain / "bicycles_Users.xml").write_text(USERS)
    folder, one, three = (tmp_path / name for name in ("folder", "one", "three"))
    for path in (folder, one, three):
        path.mkdir()
    (folder / "bicycles").mkdir()
    with py7zr.SevenZipFile(one / "bicycles.stackexchange.com.7z", "w") as archive:
        for table in ("Comments", "Posts", "Users"):
            archive.write(plain / f"bicycles_{table}.xml", f"{table}.xml")
            (folder / "bicycles" / f"{table}.xml").write_bytes((plain / f"bicycles_{table}.xml").read_bytes())
            with py7zr.SevenZipFile(three / f"bicycles.stackexchange.com-{table}.7z", "w") as part:
                part.write(plain / f"bicycles_{table}.xml", f"{table}.xml")
    for raw in (plain, plain / "bicycles_Posts.xml", folder, folder / "bicycles", one, three):
        counts = curate(raw, tmp_path / f"out{len(forms)}")
        forms[raw] = digests(tmp_path / f"out{len(forms)}")
    assert all(form == forms[plain] for form in forms.values()) and len(forms[plain]) == 2 and counts[""] > 20


def test_the_same_bytes_however_many_processes_and_a_second_time_does_nothing(tmp_path, capsys):
    raw = big(tmp_path / "raw")
    big(raw, 300, site="cooking")
    curate(raw, tmp_path / "one")
    curate(raw, tmp_path / "two", processes=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "one").iterdir()}
    curate(raw, tmp_path / "one")
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "one").iterdir()}
    assert sorted(p.name for p in before) == ["candidates.parquet", "done.json", "ledger.parquet"]


def command(raw, out):
    return ["-m", "lima.curate.dialogues", "--config", CONFIG, "--raw", raw, "--out", out]


def test_after_a_death_it_starts_cleanly(tmp_path):
    raw, out = big(tmp_path / "raw", 1500), tmp_path / "out"
    for delay in (0, 0.4):
        process = subprocess.Popen([sys.executable, *map(str, command(raw, out))], stdout=subprocess.DEVNULL, cwd=ROOT)
        while process.poll() is None and not list(out.glob(".sites/bicycles/.dialogues.sqlite")):
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not (out / ledger.DONE).exists()
    curate(raw, out)
    curate(raw, tmp_path / "whole")
    assert digests(out) == digests(tmp_path / "whole") and sorted(p.name for p in out.iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (b"PK\x03\x04 not xml", "not an XML file"),
        (BOMB, "refused"),
        (b'<comments>\n<row Id="1" PostId="2" Te', r"ends early, in line 2"),
        (b'<comments>\n<row Id="1" PostId="2" Text="\xff\xfe" UserId="7"/>\n</comments>', "line 2: not UTF-8"),
        (b'<comments>\n<row Id="1" PostId="2" Text="a" Text="b"/>\n</comments>', "line 2: broken XML"),
        (b'<posts><row Id="1" Body="a"/></posts>', "no row has a PostId; expected a dump's Comments.xml"),
    ],
)
def test_a_broken_comments_file_is_one_line_and_leaves_nothing(content, says, tmp_path):
    raw = site(tmp_path / "raw")
    (raw / "bicycles_Comments.xml").write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        curate(raw, tmp_path / "out")
    assert "\n" not in str(error.value) and "bicycles_Comments.xml" in str(error.value)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_broken_posts_file_is_one_line(tmp_path):
    raw = site(tmp_path / "raw", comment(1, 7, ASK))
    (raw / "bicycles_Posts.xml").write_text("<posts></posts>")
    with pytest.raises(UserError, match=r"bicycles_Posts\.xml: no rows"):
        curate(raw, tmp_path / "out")


def test_what_was_read_of_a_file_that_ends_early_is_kept_only_if_asked(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    dump(raw, question(1), answer(2, 1), end='  <row Id="3" PostTy')
    said(raw, comment(1, 7, ASK), comment(2, 8, REPLY), end='  <row Id="3" Pos')
    with pytest.raises(UserError, match="ends early"):
        curate(raw, tmp_path / "out")
    assert curate(raw, tmp_path / "out", keep_truncated=True) == {"": 1}
    notes = ledger.record(tmp_path / "out")["notes"]["sites"]["bicycles"]
    assert notes["Posts"]["truncated"].startswith("ends early") and notes["Comments"]["truncated"].startswith(
        "ends early"
    )


def test_without_comments_xml_one_line_says_which_file_and_where_dumps_have_it(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    path = dump(raw, question(1), answer(2, 1))
    for given in (raw, path):
        done = run(*command(given, tmp_path / "out"))
        assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "out").exists()
        (line,) = done.stderr.strip().splitlines()
        assert f"{raw}/bicycles_Comments.xml: no such file" in line and "dumps have it in <site>.7z" in line
    with py7zr.SevenZipFile(tmp_path / "cooking.7z", "w") as archive:
        archive.write(path, "Posts.xml")
    with pytest.raises(UserError, match=r"cooking\.7z: holds no Comments\.xml"):
        curate(tmp_path / "cooking.7z", tmp_path / "out")
    site(raw, comment(1, 7, ASK), comment(2, 8, REPLY), site="cooking")
    assert curate(raw, tmp_path / "out") == {"": 1}  # the others are read
    assert "left out: bicycles: " in capsys.readouterr().out
    assert "Comments.xml" in ledger.record(tmp_path / "out")["notes"]["left_out"]["bicycles"]


def test_a_site_that_the_table_lacks_can_be_taken(tmp_path):
    raw = site(tmp_path / "raw", comment(1, 7, ASK), comment(2, 8, REPLY), site="knitting")
    with pytest.raises(
        UserError, match=r"no site to read; knitting: not in .*; to take it, set stackexchange\.sites\.knitting"
    ):
        curate(raw, tmp_path / "out")
    config = tmp_path / "r.yaml"
    config.write_text(
        yaml.safe_dump({"extends": str(ROOT / CONFIG), "stackexchange": {"sites": {"knitting": "other"}}})
    )
    assert curate(raw, tmp_path / "out", config) == {"": 1}


def test_the_mix_takes_them(tmp_path):
    rows = [comment(n, (8, 7)[n % 2], (REPLY, ASK)[n % 2]) for n in range(1, 5)]
    curate(site(tmp_path / "raw", *rows), tmp_path / "candidates/dialogues")
    mix = {"train": [{"source": "multi_turn", "rows": 1, "within": "random"}], "contamination": {"against": []}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"mix": mix}))
    words = ["--config", tmp_path / "r.yaml", "--candidates", tmp_path / "candidates", "--out", tmp_path / "mixed"]
    mixture.main([str(word) for word in words])
    (row,) = conversations.load(str(tmp_path / "mixed/train.jsonl")).rows
    assert [turn["content"] for turn in row["messages"][2:]] == [ASK, REPLY, ASK, REPLY] and row[
        "source"
    ] == "multi_turn"
    assert "user 8; question and comments by user 7" in (tmp_path / "mixed/ATTRIBUTION.md").read_text()


PEAK = """
import sys
from lima.curate import dialogues
dialogues.main(sys.argv[1:])
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    """What is held does not grow with the rows: five comments under every answer, and under one of twenty a dialogue."""
    (tmp_path / "peak.py").write_text(PEAK)
    sizes, peaks, short = [], [], "<p>Oil it, and wipe it.</p>"
    row = comment(1, 7, ASK).replace('Id="1" PostId="2"', 'Id="{}" PostId="{}"').replace('"7"', '"{}"')
    for count in (8000, 20_000):
        raw, rows, posts = tmp_path / f"raw{count}", [], []
        for n in range(count):
            speakers = (7, 8, 7, 8, 9) if n % 20 == 0 else (8, 9, 8, 9, 8)
            rows += [row.format(6 * n + k, 2 * n + 2, who) for k, who in enumerate(speakers)]
            posts += [question(2 * n + 1, body=short), answer(2 * n + 2, 2 * n + 1, body=short)]
        site(raw, *rows, posts=posts)
        done = run(tmp_path / "peak.py", *command(raw, tmp_path / f"out{count}")[2:], PYTHONPATH=ROOT)
        assert done.returncode == 0, done.stderr
        assert ledger.counts(tmp_path / f"out{count}") == {"": count // 20}
        sizes.append(sum(path.stat().st_size for path in raw.iterdir()) / 2**20)
        peaks.append(int(done.stdout.split()[-1]) / 2**10)
    assert sizes[1] - sizes[0] > 14 and peaks[1] - peaks[0] < 20, (sizes, peaks)  # MB; 30 with the comments held


# ---- comments for the ids and users of real posts -----------------------------------------------------------------------

LETTERS = {
    "A": ASK,
    "a": "Thanks, that worked!",
    "B": REPLY,
    "b": "You're welcome.",
    "o": "Somebody else says that it does not hold.",
}


def expected(letters, score, asker, answerer, least=3, most=8):
    """A chain's turns, or None where it falls, or "" where there is no chain: by letters, with regular expressions alone."""
    if asker is None or not re.search("[Aa]", letters):
        return ""
    if asker == answerer or answerer is None or score < least:
        return None
    talk = re.sub("[ab]", "", re.sub("o.*", "", re.sub("^[^A]*", "", letters)))
    exchanges = len(re.findall("A+B+", talk))
    return min(exchanges, (most - 2) // 2) * 2 or None


@pytest.mark.parametrize("name", ["matheducators_2014", "beer_2017", "coffee_2015"])
def test_real_posts_with_comments_made_for_them(name, shared, tmp_path):
    (tmp_path / "raw").mkdir()
    path = tmp_path / f"raw/{name}_Posts.xml"
    path.write_bytes((shared / f"stackexchange/{name}_Posts.xml").read_bytes())
    posts = {row.get("Id"): row for row in ElementTree.parse(path).getroot()}
    draw, rows, wanted, number = random.Random(name), [], defaultdict(str), 0
    for id, post in posts.items():
        asked = posts.get(post.get("ParentId"))
        if post.get("PostTypeId") != "2" or asked is None:
            continue
        owners = {"A": asked.get("OwnerUserId"), "B": post.get("OwnerUserId"), "o": "123456"}
        if None in owners.values() or owners["A"] == owners["B"]:
            owners["A"] = owners["A"] or "654321"
        letters = "".join(draw.choices("AaBbo", (5, 2, 5, 2, 1), k=draw.randrange(8)))
        if asked.get("OwnerUserId") and asked.get("OwnerUserId") == post.get("OwnerUserId"):
            letters = letters.replace("B", "A").replace("b", "a")
        for letter in letters:
            number += 1
            when, who = (
                f"2014-03-13T21:{number // 60 % 60:02}:{number % 60:02}.{number % 1000:03}",
                owners[letter.upper() if letter != "o" else "o"],
            )
            rows.append(
                comment(number, int(who) if who else None, LETTERS[letter], id, f"20{14 + number // 3600:02}{when[4:]}")
            )
        wanted[id] = expected(letters, int(post.get("Score")), asked.get("OwnerUserId"), post.get("OwnerUserId"))
    draw.shuffle(rows)
    said(tmp_path / "raw", *rows, site=name)
    counts = curate(tmp_path / "raw", tmp_path / "out")
    considered = {id for id, turns in wanted.items() if turns != ""}
    lines = list(ledger.lines(tmp_path / "out"))
    assert Counter(line["id"].split("/")[-1] for line in lines) == dict.fromkeys(considered, 1)
    assert Counter(line["rule"] for line in lines) == counts and sum(counts.values()) == len(considered) > 100
    found = {row["id"].split("/")[-1]: len(row["messages"]) - 2 for row in kept(tmp_path / "out")}
    assert found == {id: turns for id, turns in wanted.items() if turns} and len(found) == counts[""] > 30
    for row in kept(tmp_path / "out"):
        asked = posts[posts[row["id"].split("/")[-1]].get("ParentId")]
        assert row["messages"][0]["content"].startswith(" ".join(asked.get("Title").split()))
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)
        answered = posts[row["id"].split("/")[-1]]
        for post in (asked, answered):
            assert (post.get("OwnerDisplayName") or f"user {post.get('OwnerUserId')}") in row["author"]
