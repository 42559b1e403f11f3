"""The studio without a browser: its files, its shares, its routes; tests/test_studio_browser.py has the page."""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections import Counter
from itertools import combinations

import pytest
from fastapi.testclient import TestClient

from lima import UserError, runs
from lima.curate import decisions, mixture
from lima.evaluate import agreement, intervals, judgments, verdicts
from lima.studio import annotate, app, review, serve, shown
from lima.studio.journal import Journal
from tests.conftest import ROOT
from tests.test_mixture import candidate, recipe, write

HERE = "http://127.0.0.1:7860"


def answers(name, texts, prompts="test"):
    """A file of a system's answers in the working folder; returns its spec."""
    rows = [
        {"prompt_id": f"p{n}", "prompt": f"Question {n}?", "response": text, "sample": 0}
        for n, text in enumerate(texts)
    ]
    runs.write_jsonl(f"answers/{name}/{prompts}.jsonl", rows)
    return f"answers/{name}"


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Makes the items of a comparison of zebra and quokka, in an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def make(count=20):
        one = answers("zebra", [f"good {n}" for n in range(count)])
        return annotate.pairs(one, [answers("quokka", [f"bad {n}" for n in range(count)])], "test")

    return make


def judge_all(room, who, wanted=lambda item: "a"):
    """Puts `who`'s verdict on every item, by system."""
    for key, item in room.share(who).items():
        slot = {"tie": 3, **{side: 1 + place for place, side in enumerate(room._share(who)[key][1])}}
        room.put(who, key, slot[wanted(item)], 2.0)


# ---- the journal -------------------------------------------------------------------------------------------------------


def test_rows_of_many_threads_and_processes_are_all_there(tmp_path):
    path = tmp_path / "rows.jsonl"
    program = (
        "import sys, json; from lima.studio.journal import Journal; j = Journal(sys.argv[1], lambda l, w: json.loads(l))\n"
        "for n in range(60): j.add({'by': sys.argv[2], 'n': n})"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(path), f"process {n}"], cwd=ROOT) for n in range(2)]
    journal = Journal(path, lambda line, where: json.loads(line))
    threads = [
        threading.Thread(target=lambda by=by: [journal.add({"by": f"thread {by}", "n": n}) for n in range(60)])
        for by in range(3)
    ]
    for thread in threads:
        thread.start()
    for one in [*threads, *others]:
        one.join() if isinstance(one, threading.Thread) else one.wait()
    assert [process.returncode for process in others] == [0, 0]
    found = Counter((row["by"], row["n"]) for row in runs.read_jsonl(path))
    assert len(found) == 5 * 60 and set(found.values()) == {1}
    assert len(journal.look()) == 300


def test_a_journal_sees_what_others_do_to_its_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path, lambda line, where: json.loads(line))
    assert journal.look() == []
    journal.add({"n": 1})
    runs.write_jsonl(path, [{"n": 3}])  # another file in its place, as long as it was
    assert journal.look() == [{"n": 3}]
    for _ in range(20):  # numbers of removed files are used again
        runs.write_jsonl(path, [{"n": 4}])
        runs.write_jsonl(path, [{"n": 5}])
        assert journal.look() == [{"n": 5}]
    path.write_text('{"n": 6}')  # by hand, without an end of line
    assert journal.look() == [{"n": 6}]
    journal.add({"n": 7})
    assert path.read_text() == '{"n": 6}\n{"n": 7}\n'
    with open(path, "a") as file:
        file.write('{"n": 8')  # a death in the middle of a row
    journal.add({"n": 9})
    assert [row["n"] for row in runs.read_jsonl(path)] == [6, 7, 9] == [row["n"] for row in journal.look()]
    path.unlink()
    assert journal.look() == []
    path.write_text('{"n": 1}\n{"n": oops}\n')
    for _ in range(2):
        with pytest.raises(ValueError):
            journal.look()
    path.write_text('{"n": 1}\n{"n": 2222}\n')  # mended in place
    assert [row["n"] for row in journal.look()] == [1, 2222]


def test_a_full_disk_leaves_the_rows_that_stood(tmp_path):
    path = tmp_path / "rows.jsonl"
    program = (
        "import resource, sys, json, signal; from lima.studio.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "j = Journal(sys.argv[1], lambda l, w: json.loads(l)); j.add({'n': 1})\n"
        "try: j.add({'n': 'x' * 200})\nexcept OSError as e: print(e.errno)\n"
        "j.add({'n': 2})"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("27\n", "")  # EFBIG
    assert runs.read_jsonl(path) == [{"n": 1}, {"n": 2}]


# ---- what is shown -----------------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "![beacon](http://127.0.0.1:9/beacon.png)",
    "[click](javascript:alert(1)) <http://127.0.0.1:9/>",
    '<img src=x onerror="window.hacked=1">',
    "[a]: http://127.0.0.1:9/\n\n![a] [a]",
    '```html" onload="x\n</code></pre><script>1</script>\n```',
    "$$</pre><script>1</script>$$ \\(<b>\\) $<i>$",
    "| a |\n|---|\n| <svg/onload=1> |",
    "&lt;script&gt; &#x202e;",
    "left \u202eright\u2066 \x07\x1b[31m \ud800 \u2028",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(text):
    import html as htmllib
    from html.parser import HTMLParser

    seen, words = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, attrs))

        def handle_data(self, data):
            words.append(data)

    Reader(convert_charrefs=True).feed(shown.as_html(text))
    plain = {"p", "br", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "em", "strong", "i"}
    assert {tag for tag, _ in seen} <= plain
    assert all(name == "class" for _, attrs in seen for name, _ in attrs)
    said = "".join(words)
    for word in re.findall(r"[a-z]+(?::[^\s)>\"]*)?", text):
        assert word in said or word in str(seen), word  # nothing is swallowed
    assert not set("\u202e\u2066\x07\x1b\ud800\u2028") & set(shown.as_html(text))
    assert htmllib.escape("\u202e") not in said


def test_formulas_code_and_lists_stay_readable():
    page = shown.as_html(
        "Let $x_1 * y_2 * z$, \\(a_b\\) and:\n\n\\begin{align}\na &= b_1 *c* \\\\\n\\end{align}\n\n- one\n- `two`\n"
    )
    for words in ("$x_1 * y_2 * z$", "\\(a_b\\)", "a &amp;= b_1 *c* \\\\", "<li>one</li>", "<code>two</code>"):
        assert words in page
    assert "it costs $5 and $10" in shown.as_html("it costs $5 and $10")
    long = "<b>" * 30_000
    assert shown.as_html(long) == f"<pre>{'&lt;b&gt;' * 30_000}</pre>"


# ---- who judges what ---------------------------------------------------------------------------------------------------


def test_shared_items_are_everybodys_and_the_rest_is_divided(pairs):
    room = annotate.Room(pairs(100), ["anna", "ben", "cleo"], shared=25)
    shares = {who: {item.place for item in room.share(who).values()} for who in room.annotators}
    assert sorted(len(places) for places in shares.values()) == [50, 50, 50]
    for one, other in combinations(shares.values(), 2):
        assert len(one & other) == 25
    assert len(set.union(*shares.values())) == 100
    orders = [[item.place for item in room.share(who).values()] for who in room.annotators]
    assert orders[0][:10] != orders[1][:10]
    again = annotate.Room(pairs(100), ["anna", "ben", "cleo"], shared=25)
    assert list(again.share("ben")) == list(room.share("ben"))
    everybody = annotate.Room(pairs(100))
    assert len(everybody.share("anybody")) == 100 == len(everybody.share("else"))
    assert len(annotate.Room(pairs(100), limit=7).share("anybody")) == 7


def test_neither_system_has_a_side(pairs):
    room = annotate.Room(pairs(400))
    first = [Counter("good" in room.view(who, key)["answers"][0] for key in room.share(who)) for who in ("anna", "ben")]
    assert first == [Counter({True: 200, False: 200})] * 2
    sides = [{item.place: order for item, order in room._share(who).values()} for who in ("anna", "ben")]
    keys = list(room.share("anna"))
    for digit in "0123456789abcdef":  # nothing of the id that the page shows tells the side
        ending = [room._share("anna")[key][1] for key in keys if key[-1] == digit]
        assert {"ab", "ba"} == set(ending)
    assert 150 < sum(sides[0][place] == sides[1][place] for place in sides[0]) < 250


def test_verdicts_are_by_system_in_the_form_of_the_judges(pairs, tmp_path):
    room = annotate.Room(pairs(30))
    judge_all(room, "anna", lambda item: "tie" if item.prompt_id in ("p3", "p4") else "a")
    judge_all(room, "ben", lambda item: "b")
    path = tmp_path / "judgments/zebra-vs-quokka.jsonl"
    rows = judgments.read(path, a="zebra", b="quokka")
    assert len(rows) == 60 and {row["judge"] for row in rows} == {"human:anna", "human:ben"}
    found = verdicts.outcomes(rows, "human:anna")
    assert Counter(found.values()) == {"a": 28, "tie": 2} and found["p3", 0] == "tie"
    assert {row["seconds"] for row in rows} == {2.0} and all(
        re.fullmatch(r"[0-9a-f]{16}", row["digest"]) for row in rows
    )
    annotations, groups = agreement.load([path])
    assert agreement.tie_discounted(*annotations.values()) == pytest.approx((2 * 0.5 + 28 * 0) / 30)
    assert set(groups.values()) == {"crowd"}
    assert [choice for _, choice in room.session("anna")].count(3) == 2


def test_a_second_verdict_takes_the_place_of_the_first(pairs, tmp_path):
    room = annotate.Room(pairs(4))
    keys = list(room.share("anna"))
    for choice in (1, 1, 2, 2):
        room.put("anna", keys[0], choice, 1)
    room.put("ben", next(iter(room.share("ben"))), 3, 1)
    rows = runs.read_jsonl(tmp_path / "judgments/zebra-vs-quokka.jsonl")
    assert [(row["judge"], row["verdict"]) for row in rows] == [
        ("human:anna", room._share("anna")[keys[0]][1][1]),
        ("human:ben", "tie"),
    ]
    assert room.session("anna")[0] == (keys[0], 2) and room.session("anna")[1][1] is None


def test_answers_that_changed_are_judged_anew_and_nothing_is_lost(pairs, tmp_path):
    judge_all(annotate.Room(pairs(3)), "anna")
    items = annotate.pairs("answers/zebra", [answers("quokka", ["bad 0", "other", "bad 2"])], "test")
    room = annotate.Room(items)
    assert [choice is None for _, choice in room.session("anna")].count(True) == 1 and not room.done("anna")
    judge_all(room, "anna", lambda item: "b" if item.prompt_id == "p1" else "a")
    path = tmp_path / "judgments/zebra-vs-quokka.jsonl"
    assert {row["prompt_id"]: row["verdict"] for row in runs.read_jsonl(path)} == {"p0": "a", "p1": "b", "p2": "a"}
    former = runs.read_jsonl(judgments.former(path))
    assert [(row["prompt_id"], row["verdict"]) for row in former] == [("p1", "a")]


def test_a_choice_on_a_text_that_has_changed_since_is_refused(pairs):
    before = annotate.Room(pairs(2)).share("anna")
    items = annotate.pairs("answers/zebra", [answers("quokka", ["changed", "bad 1"])], "test")
    room = annotate.Room(items)
    (gone,) = [key for key, item in before.items() if item.prompt_id == "p0"]
    with pytest.raises(annotate.Refused, match="load the page again"):
        room.put("anna", gone, 1, 1)
    (same,) = set(before) & set(room.share("anna"))
    room.put("anna", same, 1, 1)


def test_a_row_that_says_not_on_which_texts_is_none_of_ours(pairs, tmp_path):
    room = annotate.Room(pairs(2))
    judge_all(room, "anna")
    path = tmp_path / "judgments/zebra-vs-quokka.jsonl"
    rows = runs.read_jsonl(path)
    rows[0].pop("digest"), rows[1].pop("date")
    runs.write_jsonl(path, rows)
    assert not room.done("anna")
    judge_all(room, "anna")
    assert room.done("anna") and len(runs.read_jsonl(path)) == 2


def test_who_has_nothing_to_do_sees_no_results(pairs):
    room = annotate.Room(pairs(2), ["anna", "ben", "cleo"], shared=0)
    assert room.session("cleo") == []
    with pytest.raises(annotate.Refused, match="once your share is done"):
        room.see_results("cleo")


def test_a_judge_and_people_write_the_same_file(pairs, tmp_path):
    room = annotate.Room(pairs(6))
    judge_all(room, "anna")
    key, item = next(iter(room.share("anna").items()))
    row = room._row("anna", item, key, "A", 1) | {"judge": "gpt", "order": "ab", "raw": "Verdict: A"}
    digests = {(one.prompt_id, one.sample): one.digest for one in room.items}
    judgments.write(item.journal.path, [row], digests, Namespace(judge="gpt", prompts="test"), **item.owner)
    judge_all(room, "ben")
    assert Counter(row["judge"] for row in runs.read_jsonl(item.journal.path)) == {
        "human:anna": 6,
        "human:ben": 6,
        "gpt": 1,
    }


def test_one_answer_is_excellent_passes_or_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    room = annotate.Room(annotate.levels(answers("zebra", ["x", "", "z"]), "test"))
    for (key, _), choice in zip(room.session("anna"), (1, 2, 3), strict=True):
        room.put("anna", key, choice, 1)
    rows = runs.read_jsonl(tmp_path / "judgments/zebra.level.jsonl")
    assert [row["level"] for row in rows] == ["excellent", "pass", "fail"] and {row["n"] for row in rows} == {0}
    assert [choice for _, choice in room.session("anna")] == [1, 2, 3]


def test_pairs_of_the_same_text_are_nobodys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = answers("zebra", ["same", "one"]), answers("quokka", ["same ", "other"])
    assert [item.prompt_id for item in annotate.pairs(a, [b], "test")] == ["p1"]


# ---- the routes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(pairs):
    room = annotate.Room(pairs(6), ["anna", "ben"], shared=2)
    made = app.make(compare=room, instructions={"compare": "which?"}, hints=serve.HINTS)
    with TestClient(made, base_url=HERE, raise_server_exceptions=False) as found:
        found.room = room
        yield found


def choose(client, key, who="anna", choice=1):
    return client.post(f"/api/compare/items/{key}", json={"who": who, "choice": choice, "seconds": 3})


def test_no_systems_name_leaves_before_a_share_is_done(client):
    page = client.get("/compare")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    said = [page.text, client.get("/api/rooms").text, *(p.read_text() for p in app.PAGE.iterdir())]
    items = client.get("/api/compare/session", params={"who": "anna"}).json()["items"]
    assert len(items) == 4
    for key, _ in items:
        assert client.get("/api/compare/results", params={"who": "anna"}).status_code == 409
        said.append(client.get(f"/api/compare/items/{key}", params={"who": "anna"}).text)
        said.append(choose(client, key).text)
    assert not [text for text in said if re.search("zebra|quokka", text)]
    found = client.get("/api/compare/results", params={"who": "anna"}).json()
    assert found["tables"][0]["title"] == "zebra against quokka, test"
    assert client.get("/api/compare/results", params={"who": "ben"}).status_code == 409


def test_what_was_chosen_before_results_were_seen_stands(client, monkeypatch, tmp_path):
    clock = itertools.count()
    monkeypatch.setattr(annotate.asking, "now", lambda: f"2026-01-01T00:00:{next(clock):02}Z")
    keys = list(client.room.share("anna"))
    for key in keys:
        choose(client, key)
    assert choose(client, keys[0], choice=2).status_code == 200  # nothing was seen yet
    session = {"params": {"who": "anna"}}
    assert client.get("/api/compare/session", **session).json()["seen"] is False
    for _ in range(3):  # the page looks again and again
        assert client.get("/api/compare/results", **session).status_code == 200
    path = tmp_path / "judgments/studio/results-seen.jsonl"
    assert [row["files"] for row in runs.read_jsonl(path)] == [["zebra-vs-quokka.jsonl"]]
    assert client.get("/api/compare/session", **session).json()["seen"] is True
    before = runs.read_jsonl(tmp_path / "judgments/zebra-vs-quokka.jsonl")
    reply = choose(client, keys[0], choice=3)
    assert reply.status_code == 409 and reply.json()["error"].startswith("you have seen the results since")
    assert choose(client, keys[0], choice=2).status_code == 200  # the same again
    assert runs.read_jsonl(tmp_path / "judgments/zebra-vs-quokka.jsonl") == before
    again = annotate.Room(client.room.items, ["anna", "ben"], shared=2)  # the studio, started anew
    with pytest.raises(annotate.Refused, match="stands"):
        again.put("anna", keys[0], 3, 1)
    again.put("ben", next(iter(again.share("ben"))), 3, 1)
    # an answer that changed since is judged anew, and can be judged otherwise until results are seen again
    other = answers("quokka", ["changed", *(f"bad {n}" for n in range(1, 6))])
    items = annotate.pairs("answers/zebra", [other], "test")
    room = annotate.Room(items)
    key = next(key for key, item in room.share("anna").items() if item.prompt_id == "p0")
    for choice in (1, 2):
        room.put("anna", key, choice, 1)
    assert not room.has_seen("anna")
    path.write_text("anna\n")
    with pytest.raises(UserError, match=r"results-seen.jsonl: row 1 does not say who saw results"):
        annotate.Room(items).has_seen("anna")


def test_results_are_those_of_the_file(client):
    for who in ("anna", "ben"):
        judge_all(client.room, who, lambda item: "a" if item.prompt_id in ("p0", "p1", "p2") else "b")
    found = client.get("/api/compare/results", params={"who": "ben"}).json()
    people, *each = found["tables"][0]["rows"]
    assert (people["who"], people["n"]) == ("people", 6) and [row["who"] for row in each] == ["anna", "ben"]
    assert people["shares"]["win"] == pytest.approx(intervals.shares([["win"]] * 3 + [["lose"]] * 3)["win"])
    (crowd,) = found["agreement"]
    assert (crowd["pair"], crowd["items"], crowd["share"][0], crowd["paper"]) == ("crowd – crowd", 2, 1.0, 82)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"who": "mallory"}, 409, "not on the list"),
        ({"who": "../x"}, 409, "1 to 40 letters"),
        ({"choice": 4}, 422, "choice"),
        ({"seconds": -1}, 422, "seconds"),
        ({"key": "0" * 24}, 409, "not in your share"),
    ],
)
def test_what_an_annotator_may_not(client, change, status, words):
    body = {"who": "anna", "choice": 1, "seconds": 1, **change}
    key = body.pop("key", next(iter(client.room.share("anna"))))
    reply = client.post(f"/api/compare/items/{key}", json=body)
    assert reply.status_code == status and words in reply.json()["error"]
    assert not judgments.FOLDER.exists() or not list(judgments.FOLDER.iterdir())


def test_an_error_names_no_file_to_an_annotator(client, capsys):
    key = next(iter(client.room.share("anna")))
    judgments.FOLDER.mkdir(exist_ok=True)
    (judgments.FOLDER / "zebra-vs-quokka.jsonl").write_text("no row\n")
    reply = choose(client, key)
    assert reply.status_code == 500 and "zebra" not in reply.text
    assert "zebra-vs-quokka.jsonl: row 1 is not a row" in capsys.readouterr().err


def test_only_this_machines_own_pages_may_ask(client, pairs):
    assert client.get("/", headers={"host": "evil.example:7860"}).status_code == 421
    key = next(iter(client.room.share("anna")))
    body = {"who": "anna", "choice": 1, "seconds": 1}
    for origin in ("http://evil.example", "null"):
        assert client.post(f"/api/compare/items/{key}", json=body, headers={"origin": origin}).status_code == 403
    assert client.post(f"/api/compare/items/{key}", json=body, headers={"origin": HERE}).status_code == 200
    for path in ("/docs", "/openapi.json", "/serve.py", "/page/../serve.py", "/page/%2e%2e/serve.py"):
        assert client.get(path).status_code == 404
    with TestClient(app.make(compare=client.room, password="correct horse"), base_url="http://node7:7860") as shared:
        assert shared.get("/").status_code == 401 == shared.get("/page/studio.js").status_code
        assert shared.get("/", auth=("studio", "wrong horse")).status_code == 401
        assert shared.get("/", auth=("studio", "correct horse")).status_code == 200


# ---- review ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mix(tmp_path):
    rows = [candidate("stackexchange_stem", "math", n, 10 + n) for n in range(12)]
    write(tmp_path / "cand", rows)
    recipe(tmp_path, train=[{"source": "stackexchange_stem", "rows": 4}])
    words = ["--config", tmp_path / "r.yaml", "--candidates", tmp_path / "cand", "--out", tmp_path / "out"]

    def again():
        mixture.main([str(word) for word in words])
        return tmp_path / "out"

    again()
    return again


def count(text):
    return len(text.split())


def test_decisions_are_what_the_next_mix_takes(mix, tmp_path):
    room = review.Review(tmp_path / "out", count)
    assert [row["score"] for row in room.rows] == [21, 20, 19, 18, 17, 16, 15, 14]
    edited = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    room.decide(0, "reject", "ada", "dull")
    room.decide(1, "edit", "ada", messages=edited)
    room.decide(7, "accept", "ada")
    room.decide(2, "reject", "ada")
    room.decide(2, "undo", "ada")
    assert room.standing()["quotas"] == [
        {"split": "train", "source": "stackexchange_stem", "rows": 4, "accepted": 2, "rejected": 1}
    ]
    found = decisions.load(tmp_path / "out/decisions.jsonl")
    assert {room.rows[n]["id"]: kind for n, kind in ((0, "reject"), (1, "edit"), (7, "accept"))} == {
        name: one["decision"] for name, one in found.items()
    }
    assert room.view(1)["messages"][1]["content"] == "So." and room.view(1)["decision"]["decision"] == "edit"
    assert room.overview()["decisions"][2] is None and len(room.overview()["items"]) == len(room.rows)
    rejected = room.rows[0]["id"]
    train = {row["id"]: row for row in runs.read_jsonl(mix() / "train.jsonl")}
    assert rejected not in train and train[room.rows[1]["id"]]["messages"] == edited and room.rows[7]["id"] in train
    review.Review(tmp_path / "out", count)  # decisions about rows that have left review.jsonl are of this dataset


def test_what_speaks_for_and_against_a_candidate(tmp_path):
    steps = [
        {"answer_min_score": 10, "answer_characters": [1200, 4096]},
        {"min_characters": 800, "max_characters": 18000},
    ]
    long = "Take the screw out. " * 61  # 1,220 characters
    row = {"source": "stackexchange_stem", "score": 10, "messages": [{"content": "How?"}, {"content": long}]}
    assert review.barely(row, steps) == {
        "score": "10 points, at least 10",
        "length": "1,220 characters, at least 1,200",
    }
    row = {**row, "score": 50, "messages": [{"content": "How?"}, {"content": long * 2 + "\nI recommend `my`."}]}
    assert review.barely(row, steps) == {"first person": "“I recommend” is let through"}
    assert review.barely({**row, "source": "wikihow"}, steps) == {}

    said = [("Bees " * 300, "a"), ("Ants are small and they live in the ground under trees " * 20, "b")]
    said.append((said[1][0] + "often. " * 40, "c"))
    rows = [{"id": name, "prompt": f"What {name} {name * 40}?", "response": text} for text, name in said]
    runs.write_jsonl(tmp_path / "some.jsonl", rows)
    room = review.Review(tmp_path / "some.jsonl", count)
    while room.alike is None:
        time.sleep(0.01)
    assert room.view(0)["alike"] == []
    ((what, share, other),) = room.view(2)["alike"]
    assert (what, other) == ("response", "b") and 0.35 <= share < 1 and room.view(1)["alike"][0][2] == "c"
    assert room.view(0)["lengths"][1] == ("response", 300, round((300 + 220 + 260) / 3), None)
    assert room.journal.path == tmp_path / "some.decisions.jsonl"


def test_an_address_is_a_link_only_if_it_is_one():
    good = ["https://beer.stackexchange.com/a/1", "http://x.y"]
    bad = ["javascript:alert(1)", "data:text/html,x", "//x.y", "", None, "http://[", "file:///etc/passwd"]
    assert [review._address(url) for url in good] == good and [review._address(url) for url in bad] == [None] * 7


def test_an_edit_that_no_file_can_hold_is_refused(mix, tmp_path):
    room = review.Review(tmp_path / "out", count)
    good = {"id": room.rows[0]["id"], "decision": "accept", "who": "ada"}
    with TestClient(app.make(review=room), base_url=HERE) as client:
        for messages in (None, [], [{"role": "assistant", "content": "x"}], [{"role": "user", "content": " "}]):
            reply = client.post("/api/review/0", json={**good, "decision": "edit", "messages": messages})
            assert reply.status_code == 422 and "edit" in reply.json()["error"]
        assert client.post("/api/review/99", json=good).status_code == 422
        assert client.get("/api/review/-1").status_code == 422
        assert client.post("/api/review/0", json=good).json()["quotas"][0]["accepted"] == 1
    assert len(runs.read_jsonl(tmp_path / "out/decisions.jsonl")) == 1


def test_a_decision_is_on_what_the_page_shows(mix, tmp_path):
    room = review.Review(tmp_path / "out", count)
    good = {"id": room.rows[0]["id"], "decision": "accept", "who": "ada"}
    file = tmp_path / "out/decisions.jsonl"
    with TestClient(app.make(review=room), base_url=HERE) as client:

        def refused(**change):
            reply = client.post("/api/review/0", json={**good, **change})
            assert reply.status_code == 422
            return reply.json()["error"]

        assert "other candidates than when the page was loaded" in refused(id=room.rows[1]["id"])
        assert not file.exists() and client.post("/api/review/0", json=good).status_code == 200
        assert refused(who="bob", decision="reject").startswith("ada has decided on it: accept")
        assert "ada decided on it" in refused(who="bob", decision="undo", seen="accept")
        ben = {**good, "who": "bob", "decision": "reject", "seen": "accept"}
        assert client.post("/api/review/0", json=ben).json()["decisions"][0] == "reject"
        undone = {**ben, "decision": "undo", "seen": "reject"}
        assert client.post("/api/review/0", json=undone).json()["decisions"][0] is None
        assert refused(seen="reject").startswith("its decision was taken back")
    assert [row["decision"] for row in runs.read_jsonl(file)] == ["accept", "reject", "undo"]


# ---- the command line --------------------------------------------------------------------------------------------------


def refused(*flags, cwd, **env):
    done = subprocess.run(
        [sys.executable, "-m", "lima.studio.serve", *map(str, flags)],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.split("\n") if line]
    return line


def test_a_users_mistakes_are_one_line_each(pairs, tmp_path):
    pairs(3)
    listener = serve.listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    assert f"port {port} is in use" in refused("--port", port, cwd=tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    assert "no candidate in it" in refused("--port", 0, "--data", "empty.jsonl", cwd=tmp_path)
    assert "set STUDIO_PASSWORD" in refused("--port", 0, "--share", cwd=tmp_path)
    assert "8 characters" in refused("--port", 0, "--share", cwd=tmp_path, STUDIO_PASSWORD="short")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "none.jsonl"], "none.jsonl: no such file"),
        (["--a", "answers/zebra"], "give both --a and --b"),
        (["--a", "answers/zebra", "--b", "answers/zebra"], "both named zebra"),
        (["--a", "answers/zebra", "--b", "answers/few"], "answers/few/test.jsonl has no answer to p1"),
        (["--a", "answers/zebra", "--b", "answers/same"], "all answers are the same"),
        (["--rate", "answers/none"], "answers/none: no such"),
        (["--rate", "answers/zebra", "--annotators", "a b"], "--annotators a b: expected each name once"),
        (["--rate", "answers/zebra", "--annotators", "x", "x"], "--annotators x: expected each name once"),
        (["--rate", "answers/zebra", "--limit", "0"], "--limit 1 or more"),
        (["--data", "some.jsonl"], "is of another dataset"),
        (["--data", "bad.jsonl"], "row 1: has none of `messages`"),
    ],
)
def test_a_users_mistakes(pairs, tmp_path, flags, words):
    pairs(3)
    answers("few", ["x"])
    answers("same", [f"good {n}" for n in range(3)])
    good = {"id": "a", "messages": [{"role": "user", "content": "Hi"}]}
    runs.write_jsonl("some.jsonl", [good])
    runs.write_jsonl("bad.jsonl", [good, {"id": "b"}])
    runs.write_jsonl("some.decisions.jsonl", [{"id": "z", "decision": "accept", "who": "ada", "when": "2024-05-01"}])
    with pytest.raises(UserError, match=re.escape(words)):
        serve.main(["--port", "0", "--prompts", "test", *flags])


def test_the_quickstarts_before_and_after_are_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert serve.before_after("dev") is None
    for place in ("base", "checkpoint-3", "checkpoint-9"):
        rows = [{"prompt_id": "d1", "prompt": "Hi", "response": place, "sample": 0}]
        runs.write_jsonl(f"runs/quickstart/generations/{place}/dev.before_after.jsonl", rows)
    before, after = serve.before_after("dev")
    (item,) = annotate.pairs(before, after, "dev")
    assert item.answers == ("base", "checkpoint-9") and item.prompts == "dev"


def test_people_get_their_instruction_on_lines_of_their_own():
    long = "x" * 95 + "\nand more words\nA: first\nneither: none"
    assert serve.unwrapped(long) == "x" * 95 + " and more words\nA: first\nneither: none"
