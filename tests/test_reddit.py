"""Pushshift's dumps → candidates: every rule on both sides, the join, the order, flat memory, broken files."""

import gzip
import hashlib
import json
import random
import subprocess
import sys

import pytest
import zstandard

from lima import UserError, runs
from lima.curate import command, ledger, reddit, reddit_rules, settings
from lima.curate.rules import first

RECIPE = "recipes/data/lima-open.yaml"
STORY = "The lighthouse had been dark for nine years when the lamp came on by itself. " * 6
POST = {"id": "p1", "subreddit": "WritingPrompts", "title": "[WP] The lighthouse keeper finds the lamp already lit.",
        "author": "asker", "score": 500, "selftext": "", "is_self": True, "over_18": False, "created_utc": 1377993600}  # fmt: skip
QUESTION = {**POST, "id": "q1", "subreddit": "AskReddit", "title": "What makes a good lighthouse? [Serious]"}
ANSWER = {"id": "c1", "link_id": "t3_p1", "parent_id": "t3_p1", "author": "teller", "score": 50, "body": STORY,
          "subreddit": "WritingPrompts"}  # fmt: skip


def write(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(zstandard.compress(text) if path.suffix == ".zst" else text)
    return path


def curate(out, submissions, comments=(), config=RECIPE):
    words = ["--config", config, "--raw", *submissions, "--out", out]
    words += ["--comments", *comments] if comments else []
    words = [str(word) for word in words]
    command.run("reddit", reddit.DEFAULTS, reddit.SUFFIXES, reddit.curate, "", words, more=["--comments"])
    return list(ledger.candidates(out)), {line["id"]: line for line in ledger.lines(out)}


def test_recipe_states_what_the_code_does():
    assert settings.section(RECIPE, "reddit", reddit.DEFAULTS) == reddit.DEFAULTS


def test_prompt_with_its_top_response_and_title_alone(tmp_path):
    body = (
        f"**{STORY.strip()}**\n\nA &amp; B sang [a song](https://example.com/x).\n\n***\n\nEdit: thanks! /r/mystories"
    )
    posts = write(tmp_path / "RS.ndjson", [POST, {**POST, "id": "p2", "score": 900}, QUESTION])
    comments = write(tmp_path / "RC.zst", [
        {**ANSWER, "id": "c0", "score": 49}, {**ANSWER, "body": body}, {**ANSWER, "id": "c2", "score": 50},
        {**ANSWER, "id": "c3", "link_id": "t3_p2", "parent_id": "t3_p2"},
        {**ANSWER, "id": "c4", "parent_id": "t1_c1", "score": 999}, {**ANSWER, "id": "c5", "link_id": "t3_zz"},
    ])  # fmt: skip
    kept, lines = curate(tmp_path / "out", [posts], [comments])
    assert [one["id"] for one in kept] == [
        "writingprompts/p2",
        "writingprompts/p1",
        "askreddit/q1",
    ]  # most upvoted first
    assert kept[1]["messages"] == [
        {"role": "user", "content": "The lighthouse keeper finds the lamp already lit."},
        {"role": "assistant", "content": f"**{STORY.strip()}**\n\nA & B sang a song."},
    ]
    assert {k: kept[1][k] for k in ("url", "author", "score", "group", "created", "license")} == {
        "url": "https://www.reddit.com/r/WritingPrompts/comments/p1/_/c1/", "author": "teller", "score": 500,
        "group": "WritingPrompts", "created": "2013-09-01", "license": "",
    }  # fmt: skip
    assert kept[2]["messages"] == [{"role": "user", "content": "What makes a good lighthouse?"}]
    assert {id: line["rule"] for id, line in lines.items() if line["rule"]} == {
        "comment/c0": "comment_outvoted", "comment/c2": "comment_outvoted", "comment/c4": "comment_reply",
    }  # fmt: skip
    assert ledger.record(tmp_path / "out")["notes"] == {"comments on other submissions": 1}


OFF = [  # rule, what a post that it drops says, what one that it keeps says
    ("nsfw", {"over_18": True}, {"over_18": False}),
    ("removed", {"selftext": "[removed]"}, {"removed_by_category": None}),
    ("removed", {"removed_by_category": "moderator"}, {"banned_by": None}),
    ("deleted", {"author": "[deleted]"}, {"author": "deleted_scenes"}),
    ("deleted", {"title": "[deleted by user]"}, {"title": "[WP] What the keeper deleted by mistake, and why."}),
    ("stickied", {"stickied": True}, {"stickied": False}),
    ("stickied", {"distinguished": "moderator"}, {"distinguished": None}),
    ("bot", {"author": "automoderator"}, {"author": "abbot"}),
    ("bot", {"author": "WeeklyBot"}, {"author": "Talbot"}),
    ("promoted", {"promoted": True}, {"promoted": None}),
    (
        "meta",
        {"title": "[OT] What are you writing this week, everyone?"},
        {"title": "[wp] What the keeper wrote last week."},
    ),
    ("meta", {"link_flair_text": "Off Topic"}, {"link_flair_text": "Writing Prompt"}),
    ("untagged", {"title": "The lamp is already lit."}, {}),
    ("has_body", {"selftext": "It should be scary."}, {"selftext": " "}),
    ("has_body", {"is_self": False}, {}),
    ("prompt_length", {"title": "[WP] The lamp."}, {}),
    ("prompt_length", {"title": "[WP] " + "x" * 301}, {"title": "[WP] " + "x" * 300}),
    ("unpopular", {"score": 99}, {"score": 100}),
]


@pytest.mark.parametrize(("rule", "bad", "good"), OFF)
def test_rules_of_submissions(rule, bad, good):
    of = reddit.DEFAULTS["writingprompts"]
    assert first(reddit_rules.WRITING, {**POST, **bad}, of)[0] == rule
    assert first(reddit_rules.WRITING, {**POST, **good}, of) == ("", "")


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        ("no_question", "Tell me about lighthouses.", "Why are lighthouses white?"),
        ("not_standalone", "Redditors, why are lighthouses white?", "Is anybody reading the same book twice?"),
        ("not_standalone", "What is your favourite lighthouse?", "What would happen if all lighthouses went dark?"),
        ("not_standalone", "Keepers, have you ever been lonely?", "What currently legal thing do you expect to be illegal soon?"),
        ("not_standalone", "What is the kindest thing anybody did to you?", "What is kinder than you would expect?"),
    ],
)  # fmt: skip
def test_rules_of_questions(rule, bad, good):
    of = reddit.DEFAULTS["askreddit"]
    assert first(reddit_rules.ASK, {**QUESTION, "title": bad}, of)[0] == rule
    assert first(reddit_rules.ASK, {**QUESTION, "title": good}, of) == ("", "")


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        ("removed", {"body": "[removed]"}, {}),
        ("deleted", {"author": "[deleted]"}, {}),
        ("stickied", {"distinguished": "moderator"}, {"distinguished": None}),
        ("bot", {"author": "AutoModerator"}, {}),
        ("too_short", {"body": "What a prompt!"}, {"body": "x" * 300}),
        ("too_long", {"body": "x" * 3001}, {"body": "x" * 3000}),
        ("about_itself", {"body": f"I saw this prompt. {STORY}"}, {"body": f"He was prompt. {STORY}"}),
        ("about_itself", {"body": f"{STORY} See https://example.com for the rest. {STORY}"}, {"body": f"http was dead. {STORY}"}),
        ("unpopular", {"score": 9}, {"score": 10}),
    ],
)  # fmt: skip
def test_rules_of_responses(rule, bad, good):
    of = reddit.DEFAULTS["writingprompts"]["response"]
    assert first(reddit_rules.COMMENT, {**ANSWER, **bad}, of)[0] == rule
    assert first(reddit_rules.COMMENT, {**ANSWER, **good}, of) == ("", "")


@pytest.mark.parametrize(
    ("body", "story"),
    [
        ("One.\n\n---\n\nTwo.", "One.\n\n---\n\nTwo."),  # a rule within a story parts its scenes
        ("*One.*\n \n> Two.\n\n* * *\n\n^(More at r/tales)", "*One.*\n\n> Two."),
        ("Edit: typo", "Edit: typo"),  # nothing would be left
        ("(First time here, be gentle. Feedback welcome at /r/me)\n\n***\n\nOne.", "One."),
        ("One.\n\nThanks for reading!\n\nEDIT 2: wow", "One."),
        ("A &lt;3 &amp;amp; B&#x200B;", "A <3 &amp; B"),  # decoded once
        ("He edited. Or did he?\n\nEdith: no.", "He edited. Or did he?\n\nEdith: no."),
        ("line one  \nline two", "line one  \nline two"),
    ],
)
def test_story(body, story):
    assert reddit_rules.story(body) == story


def test_what_is_no_submission_is_counted(tmp_path):
    rows = [POST, "{not json", "7", "", {**POST, "subreddit": None}, {**POST, "id": "p3", "score": "many"}, POST,
            {**POST, "id": "p4", "title": "half \ud83d"}, {**POST, "id": "p5", "subreddit": "pics"},
            {**POST, "id": "p6", "score": 10**30}]  # fmt: skip
    path = write(tmp_path / "RS.ndjson", rows)
    path.write_bytes(path.read_bytes() + b'{"title": "\xff"}\n')
    kept, lines = curate(tmp_path / "out", [path], [write(tmp_path / "RC.ndjson", [ANSWER, "{", {**ANSWER, "id": 3}])])
    assert [one["id"] for one in kept] == ["writingprompts/p1"]
    assert ledger.counts(tmp_path / "out") == {
        "": 1, "not_json": 3, "missing_field": 3, "repeated": 1, "not_text": 1, "other_subreddit": 1,
        "comment_not_json": 1, "comment_missing_field": 1,
    }  # fmt: skip
    assert lines["reddit/RS.ndjson:2"]["rule"] == "not_json"


def test_the_most_upvoted_whatever_the_order(tmp_path):
    rows = [{**POST, "id": f"p{n}", "score": 100 + n % 20} for n in range(60)]
    answers = [{**ANSWER, "id": f"c{n}", "link_id": f"t3_p{n}", "parent_id": f"t3_p{n}"} for n in range(60) if n % 7]
    config = tmp_path / "r.yaml"
    config.write_text(json.dumps({"reddit": {"writingprompts": {"most": 25}}}))
    random.Random(1).shuffle(shuffled := rows[:])
    one, lines = curate(
        tmp_path / "a", [write(tmp_path / "a.ndjson", rows)], [write(tmp_path / "c.zst", answers)], config
    )
    two, _ = curate(tmp_path / "b", [write(tmp_path / "b.zst", shuffled)], [tmp_path / "c.zst"], config)
    best = sorted(rows, key=lambda row: (row["score"], row["id"]), reverse=True)[:25]
    answered = {row["id"] for row in best} - {f"p{n}" for n in range(0, 60, 7)}
    assert one == two and {c["id"] for c in one} == {f"writingprompts/{id}" for id in answered}
    assert [c["score"] for c in one] == sorted((c["score"] for c in one), reverse=True)
    counts = ledger.counts(tmp_path / "a")
    assert counts == {"": len(answered), "outvoted": 35, "no_response": 25 - len(answered)} and len(lines) == 60


def test_same_bytes(tmp_path):
    posts = write(tmp_path / "RS.zst", [{**POST, "id": f"p{n}"} for n in range(30)] + [QUESTION])
    comments = write(
        tmp_path / "RC.zst", [{**ANSWER, "link_id": f"t3_p{n}", "parent_id": f"t3_p{n}"} for n in range(30)]
    )
    for name in ("a", "b"):
        curate(tmp_path / name, [posts], [comments])
    for name in (ledger.CANDIDATES, ledger.LEDGER):
        one, two = (hashlib.sha256((tmp_path / folder / name).read_bytes()).hexdigest() for folder in ("a", "b"))
        assert one == two


def test_zst_of_several_frames_and_with_a_large_window(tmp_path):
    lines = [json.dumps({"n": n}).encode() + b"\n" for n in range(3000)]
    params = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)  # as Pushshift's: 2 GB
    large = zstandard.ZstdCompressor(compression_params=params).compress(b"".join(lines[:1500]))
    (tmp_path / "a.zst").write_bytes(large + zstandard.compress(b"".join(lines[1500:])))
    assert [row["n"] for _, row, _ in reddit.rows(tmp_path / "a.zst", lambda size: None)] == list(range(3000))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ndjson", b"", "nothing in it"),
        ("a.zst", b"", "nothing in it"),
        ("a.zst", b"plain text", "not zstd, or broken"),
        ("a.zst", gzip.compress(b"{}", mtime=0), "not zstd, or broken"),
        ("a.zst", zstandard.compress(random.Random(0).randbytes(99999))[:-50], "ends in the middle, after 99"),
        ("a.ndjson", b"x" * (2**24 + 2**17), "a line of more than 16 MB"),
    ],
)
def test_broken_files_are_one_line_and_leave_nothing(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        curate(tmp_path / "out", [tmp_path / name])
    assert words in str(error.value) and "\n" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"askreddit": {"min_scor": 3}}, "did you mean min_score?"),
        ({"askreddit": {"min_score": "high"}}, "reddit.askreddit.min_score: expected int"),
        ({"askreddit": {"cues": ["(you"]}}, "is not a pattern"),
        ({"writingprompts": {"response": {"bots": [3]}}}, "is not a pattern"),
        ({"writingprompt": {}}, "did you mean writingprompts?"),
    ],
)
def test_bad_recipe(tmp_path, section, words):
    (tmp_path / "r.yaml").write_text(json.dumps({"reddit": section}))
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        curate(tmp_path / "out", [write(tmp_path / "a.ndjson", [POST])], config=tmp_path / "r.yaml")


def test_command_line_ends_with_2_and_one_line(tmp_path):
    words = ["-m", "lima.curate.reddit", "--config", RECIPE, "--raw", tmp_path / "no.zst", "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.strip() == f"error: {tmp_path}/no.zst: no such file or folder"


PEAK = """
import sys
from lima.curate import command, reddit
command.run("reddit", reddit.DEFAULTS, reddit.SUFFIXES, reddit.curate, "", sys.argv[1:], more=["--comments"])
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    """Three times the rows take no more memory: only the chosen are held."""
    peaks, chance = [], random.Random(0)
    for rows in (40_000, 120_000):
        dump = write(
            tmp_path / f"{rows}.zst",
            ({**QUESTION, "id": f"q{n}", "score": n % 50, "x": chance.randbytes(200).hex()} for n in range(rows)),
        )
        words = ["-c", PEAK, "--config", RECIPE, "--raw", dump, "--out", tmp_path / f"out{rows}"]
        done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0], peaks


def test_real_dumps_and_the_rows_of_gair_lima(shared, tmp_path):
    files = sorted((shared / "reddit").glob("RS_*"))
    _, lines = curate(tmp_path / "out", files, sorted((shared / "reddit").glob("RC_*")))
    counts = ledger.counts(tmp_path / "out")
    assert sum(counts.values()) == len(lines) == 1143 and counts["missing_field"] == 6  # no subreddit, in RS_2017-09
    rows = [
        row["conversations"]
        for row in runs.read_jsonl(shared / "lima/train.jsonl")
        if row["source"] == "writingprompts"
    ]
    cues = reddit.DEFAULTS["writingprompts"]["response"]["comment_cues"]
    fine = [reddit_rules.story(a) == a.strip() and not reddit_rules._cue(a, cues) for _, a in rows]
    assert sum(fine) >= 149  # one apologises for what became of the prompt
    tests = [row["conversations"][0] for row in runs.read_jsonl(shared / "lima/test.jsonl")]
    asked = [text for text in tests if "?" in text and len(text) <= 300]
    assert sum(bool(reddit_rules._cue(text, reddit.DEFAULTS["askreddit"]["cues"])) for text in asked) <= 0.04 * len(
        asked
    )
