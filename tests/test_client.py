"""The client against a loopback endpoint: paid once, whatever breaks."""

import itertools
import json
import logging
import math
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from email.utils import formatdate

import pytest
from conftest import ROOT
from servers.openai import OpenAI

from lima import UserError, conversations
from lima.evaluate import client, replies

KEY = "sk-" + "0123456789abcdef" * 2
SCRIPT = """
import json, sys
from lima.evaluate import client
url, cache, count, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
asked = [{"messages": [{"role": "user", "content": f"question {n}"}]} for n in range(count)]
got = client.ask(asked, "judge", url, cache, concurrency=concurrency)
assert all(reply.text == f"answer to question {n}" for n, reply in enumerate(got)), got
print(json.dumps(sum(reply.cached for reply in got)))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server():
    with OpenAI(lambda messages: "answer to " + messages[-1]["content"]) as running:
        yield running


def question(text="question 0", **more):
    return {"messages": [{"role": "user", "content": text}], **more}


def questions(count, **more):
    return [question(f"question {number}", **more) for number in range(count)]


def stored(cache):
    """What was asked for the replies that are on disk."""
    files = cache.glob("??/*.json")
    return {json.loads(file.read_text(encoding="utf-8"))["request"]["messages"][0]["content"] for file in files}


def times_asked(server):
    return Counter(call["body"]["messages"][0]["content"] for call in server.calls)


# ---- what is asked, and what is answered -------------------------------------------------------------------------------


def test_a_request_is_sent_as_it_is_and_the_reply_is_the_servers(server, tmp_path):
    body = {"temperature": 0.0, "top_p": 0.9, "max_tokens": 3, "seed": 7, "stop": ["END"]}
    long = question("one two three four five six", tag=("ab", 1), **body)
    short = question("hello there", tag=None, temperature=None)
    assert client.ask([long, short], "judge", server.url, tmp_path, concurrency=1) == [
        client.Reply("answer to one", "length", 6, 3, False, None),
        client.Reply("answer to hello there", "stop", 2, 4, False, None),
    ]
    sent = [call["body"] for call in server.calls]
    assert sent[0] == {"model": "judge", "messages": long["messages"], **body}
    assert sent[1] == {"model": "judge", "messages": short["messages"]}


def test_replies_come_in_the_order_of_the_requests_and_few_are_asked_at_once(tmp_path):
    with OpenAI(lambda messages: time.sleep(random.random() / 20) or messages[0]["content"]) as server:
        got = client.ask(questions(40), "judge", server.url, tmp_path, concurrency=5)
    assert [reply.text for reply in got] == [f"question {number}" for number in range(40)]
    assert server.most == 5 and len(server.calls) == 40


def test_what_is_the_same_is_asked_once_and_a_tag_makes_it_another(server, tmp_path):
    ticks = []
    asked = [question(), question(), question(tag=1), question(tag=2), question(temperature=None)]
    got = client.ask(asked, "judge", server.url, tmp_path, tick=ticks.append)
    assert len(server.calls) == 3 and len(ticks) == 5
    assert [reply.cached for reply in got] == [False, True, False, False, True]
    assert sum(not reply.cached for reply in ticks) == 3


def test_a_reply_is_on_disk_before_it_is_told(server, tmp_path):
    told = []

    def tick(reply):
        told.append(reply)
        assert len(list(tmp_path.glob("??/*.json"))) >= len(told)

    client.ask(questions(30), "judge", server.url, tmp_path, concurrency=4, tick=tick)
    assert len(told) == 30


def test_what_is_stored_needs_no_server_no_key_and_no_client(server, tmp_path, monkeypatch):
    first = client.ask(questions(5), "judge", server.url, tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setitem(sys.modules, "openai", None)
    again = client.ask(questions(5), "judge", server.url, tmp_path)
    assert again == [reply._replace(cached=True) for reply in first] and len(server.calls) == 5


def test_a_reply_is_kept_by_all_that_it_depends_on(tmp_path):
    def path(request, model="judge", url="http://127.0.0.1:8000/v1"):
        return replies.path_of(request, model, url, tmp_path)

    plain = question(temperature=0.5, seed=1)
    others = [
        path(plain, model="other"),
        path(plain, url="http://127.0.0.1:8001/v1"),
        path(plain, url="http://127.0.0.1:8000/v2"),
        path(plain, url="http://localhost:8000/v1"),
        path(question("another", temperature=0.5, seed=1)),
        path(question(temperature=0.6, seed=1)),
        path(question(temperature=0.5, seed=2)),
        path(question(temperature=0.5)),
        path(plain | {"max_tokens": 5}),
        path(plain | {"tag": "ba"}),
    ]
    assert len({path(plain), *others}) == 11
    same = path(dict(reversed(plain.items())) | {"top_p": None}, url="http://me:secret@127.0.0.1:8000/v1?key=secret")
    assert same == path(plain)


def test_a_file_that_a_failing_disk_broke_is_asked_for_again(server, tmp_path):
    client.ask(questions(3), "judge", server.url, tmp_path)
    for file, wrong in zip(sorted(tmp_path.glob("??/*.json")), ("", '{"reply": {"te', "[]"), strict=True):
        file.write_text(wrong)
    got = client.ask(questions(3), "judge", server.url, tmp_path)
    assert len(server.calls) == 6 and not any(reply.cached for reply in got)
    assert stored(tmp_path) == {"question 0", "question 1", "question 2"}


def test_text_that_no_file_can_hold_is_kept_with_a_mark(tmp_path):
    with OpenAI(lambda messages: "cut in an emoji: \ud83d") as server:
        for _ in range(2):
            assert client.ask([question()], "judge", server.url, tmp_path)[0].text == "cut in an emoji: \ufffd"
    assert len(server.calls) == 1


def test_a_model_that_wants_max_completion_tokens_gets_it(tmp_path):
    with OpenAI(renamed=True) as server:
        got = client.ask(questions(6, max_tokens=5), "judge", server.url, tmp_path, concurrency=3)
    assert all(reply.text == "fine" for reply in got) and len(server.answered) == 6 and len(server.calls) <= 9
    assert all(body["max_completion_tokens"] == 5 and "max_tokens" not in body for body in server.answered)


# ---- what passes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [408, 429, 500, 503, "cut", "garbled", "html", "empty"])
def test_what_passes_is_tried_again(how, server, tmp_path):
    server.fail(how, times=2)
    got = client.ask([question()], "judge", server.url, tmp_path)
    assert got == [client.Reply("answer to question 0", "stop", 2, 4, False, None)] and len(server.calls) == 3


def test_waits_grow_between_tries(server, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.1)
    server.fail(500, times=3)
    client.ask([question()], "judge", server.url, tmp_path)
    at = [call["at"] for call in server.calls]
    for number, wait in enumerate(after - before for before, after in itertools.pairwise(at)):
        assert 0.075 * 2**number <= wait < 0.125 * 2**number + 0.15


def test_an_answer_that_is_too_late_is_asked_for_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", 0.3)
    server.fail(1.0)
    assert client.ask([question()], "judge", server.url, tmp_path)[0].text == "answer to question 0"
    assert len(server.calls) == 2


def test_what_never_comes_is_an_error_that_is_asked_for_again_next_time(server, tmp_path):
    ticks = []
    server.fail(500, times=6, error=("boiler \x1b[31mroom\nflooded", "server_error", None))
    got = client.ask([question()], "judge", server.url, tmp_path, concurrency=1, tick=ticks.append)
    assert got == ticks == [client.Reply(None, None, 0, 0, False, "500 boiler  [31mroom flooded")]
    assert len(server.calls) == 6
    assert client.ask([question()], "judge", server.url, tmp_path)[0].text and len(server.calls) == 7


def test_a_request_that_the_server_refuses_is_not_tried_again(server, tmp_path):
    server.fail(400, at=2, error=("the prompt is longer than the context", None, "context_length_exceeded"))
    got = client.ask(questions(4), "judge", server.url, tmp_path, concurrency=1)
    assert [reply.error is None for reply in got] == [True, False, True, True] and len(server.calls) == 4
    assert got[1].error == "400 the prompt is longer than the context"


def test_retry_after_holds_for_all_calls(server, tmp_path):
    server.latency = 0.1  # of answers; a fault comes at once, while other calls are out
    server.fail(429, at=3, retry_after=0.7)
    client.ask(questions(12), "judge", server.url, tmp_path, concurrency=3)
    at = [call["at"] for call in server.calls]
    pauses = [after - before for before, after in itertools.pairwise(at)]
    assert len(at) == 13 and max(pauses) > 0.6
    assert pauses.index(max(pauses)) <= 4  # those that were out when it came


def test_retry_after_may_be_a_date(server, tmp_path):
    server.fail(503, retry_after=formatdate(time.time() + 3, usegmt=True))
    client.ask([question()], "judge", server.url, tmp_path)
    first, second = [call["at"] for call in server.calls]
    assert 0.9 < second - first < 4  # a date has whole seconds, and the first call takes a while to come


@pytest.mark.parametrize("header", ["soon", "nan", "-5", ""])
def test_a_retry_after_that_says_nothing_is_passed_over(header, server, tmp_path):
    server.fail(429, retry_after=header)
    assert client.ask([question()], "judge", server.url, tmp_path)[0].text and len(server.calls) == 2


def test_calls_are_spaced(server, tmp_path):
    client.ask(questions(9), "judge", server.url, tmp_path, rate=600)
    at = [call["at"] for call in server.calls]
    assert 0.75 < at[-1] - at[0] < 2
    assert max(Counter(math.floor(when / 0.35) for when in at).values()) <= 5


# ---- what ends everything ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how, said",
    [
        (401, "refuses the key in OPENAI_API_KEY: 401 the key is wrong"),
        (403, "refuses the key in OPENAI_API_KEY: 403 this country is not served"),
        ("credit", "no credit left: 402 the credit is used up"),
        ("quota", "no credit left: 429 the quota is used up"),
        ("model", "no model 'judge' there, or not the URL that ends in /v1: 404 this model does not exist"),
    ],
)
def test_what_cannot_pass_ends_everything_and_loses_nothing(how, said, server, tmp_path):
    server.latency = 0.2  # of answers; a fault comes at once, while other calls are out
    server.fail(how, at=7, times=100)
    with pytest.raises(UserError) as error:
        client.ask(questions(20), "judge", server.url, tmp_path, concurrency=4)
    assert said in str(error.value) and server.url in str(error.value) and "\n" not in str(error.value)
    assert len(server.answered) == 6 and len(server.calls) <= 10
    assert stored(tmp_path) == {body["messages"][0]["content"] for body in server.answered}
    server.faults.clear()
    client.ask(questions(20), "judge", server.url, tmp_path)
    assert len(server.answered) == 20


def test_a_url_without_v1_is_one_line(server, tmp_path):
    with pytest.raises(UserError, match="or not the URL that ends in /v1: 404 no such page"):
        client.ask(questions(9), "judge", server.url.removesuffix("/v1"), tmp_path)


def test_a_setting_that_the_model_does_not_take_ends_everything(server, tmp_path):
    server.fail(400, times=9, error=("temperature must be 1", None, "unsupported_value", "temperature"))
    with pytest.raises(UserError, match="'judge' does not take such requests: 400 temperature must be 1"):
        client.ask(questions(9, temperature=0), "judge", server.url, tmp_path, concurrency=1)
    assert len(server.calls) == 1


def test_a_wait_of_an_hour_is_left_to_the_user(server, tmp_path):
    server.fail(429, retry_after=3600)
    with pytest.raises(UserError, match=r"asks to wait 3600 s; run this again then$"):
        client.ask(questions(3), "judge", server.url, tmp_path, concurrency=1)


def test_waiting_ends_when_everything_does(server, tmp_path):
    server.fail(429, retry_after=30)
    server.fail(401, at=2)
    server.latency = 0.2
    began = time.monotonic()
    with pytest.raises(UserError, match="refuses the key"):
        client.ask(questions(2), "judge", server.url, tmp_path)
    assert time.monotonic() - began < 5


def test_where_no_server_is_one_line_says_so(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=f"^{url}: nothing answers there; start the server, then run this again$"):
            client.ask(questions(40), "judge", url, tmp_path)


def test_a_reply_that_cannot_be_stored_stops_the_paying(server, tmp_path):
    requests = questions(30)
    replies.path_of(requests[2], "judge", server.url, tmp_path).parent.write_text("a file in the way")
    with pytest.raises(UserError, match="a reply cannot be kept there"):
        client.ask(requests, "judge", server.url, tmp_path, concurrency=1)
    assert len(server.calls) <= 3
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="replies cannot be kept there"):
        client.ask(requests, "judge", server.url, tmp_path / "file")
    assert len(server.calls) <= 3


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "localhost", "ftp://host/v1", "http://", "http://host:port/v1"])
def test_a_url_that_is_none(url, tmp_path):
    with pytest.raises(UserError, match="base_url: expected a URL such as"):
        client.ask([question()], "judge", url, tmp_path)


def test_numbers_that_make_no_sense(tmp_path):
    for wrong, said in (
        ({"concurrency": 0}, "^concurrency: expected 1 or more, found 0$"),
        ({"rate": 0}, "^rate: expected a number above 0, found 0$"),
        ({"rate": -1.0}, "found -1$"),
    ):
        with pytest.raises(UserError, match=said):
            client.ask([question()], "judge", "http://127.0.0.1:1/v1", tmp_path, **wrong)


# ---- the key -----------------------------------------------------------------------------------------------------------


def test_openai_itself_wants_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set; set it, or name another server with --base_url"):
        client.ask([question()], "judge", None, tmp_path)


def test_the_key_is_sent_and_other_servers_need_none(tmp_path, monkeypatch):
    with OpenAI(key=KEY) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
        assert client.ask([question()], "judge", None, tmp_path)[0].text == "fine"
        server.key = "none"
        monkeypatch.delenv("OPENAI_API_KEY")
        assert client.ask([question("another")], "judge", None, tmp_path)[0].text == "fine"
        server.key = KEY
        with pytest.raises(UserError, match="wants a key; set OPENAI_API_KEY: 401 Incorrect API key provided"):
            client.ask([question("a third")], "judge", None, tmp_path)


def test_a_proxy_does_not_stand_before_this_machine(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert client.ask([question()], "judge", server.url, tmp_path)[0].text == "answer to question 0"


def test_the_key_is_nowhere(tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with OpenAI(key=KEY) as server:
        client.ask(questions(3), "judge", server.url, tmp_path)
        server.fail(500, times=6, error=(f"cannot work for {KEY}", None, None))
        got = client.ask([question("another")], "judge", server.url, tmp_path)
        assert got[0].error == "500 cannot work for ***"
        wrong = "sk-" + "fedcba9876543210" * 2
        monkeypatch.setenv("OPENAI_API_KEY", wrong)
        with pytest.raises(
            UserError, match=r"401 Incorrect API key provided: \*\*\*; 3 of 9"
        ):  # this server says the key
            client.ask(questions(9), "judge", server.url, tmp_path)
        monkeypatch.setenv("OPENAI_API_KEY", wrong[:9] + "\n" + wrong[9:])
        with pytest.raises(UserError, match="OPENAI_API_KEY holds characters that no key has; set it again"):
            client.ask(questions(9), "judge", server.url, tmp_path)
    assert len(caplog.records) > 10  # the `openai` client logs at this level
    written = "".join(file.read_text(encoding="utf-8") for file in tmp_path.rglob("*") if file.is_file())
    everything = written + "".join(map(str, tmp_path.rglob("*"))) + caplog.text + "".join(capfd.readouterr())
    assert KEY not in everything and wrong not in everything and KEY[5:] not in everything


def test_a_url_with_a_password_is_shown_without(tmp_path, server):
    url = server.url.replace("//", "//me:pass@word@") + "?key=query"
    server.fail("model")
    with pytest.raises(UserError) as error:
        client.ask([question()], "judge", url, tmp_path)
    assert not any(secret in str(error.value) for secret in ("pass", "word", "query"))


# ---- what it would take ------------------------------------------------------------------------------------------------


def test_an_estimate_counts_what_is_not_stored(server, tmp_path):
    asked = [question("eight by" * n, max_tokens=100, tag="a") for n in (1, 2, 3)] + [
        question("y" * 7),
        question("y" * 7),
    ]
    expected = {"calls": 4, "stored": 0, "prompt_tokens": 4 * 7 + 2 + 4 + 6 + 2, "completion_tokens": 300 + 4096}
    assert client.estimate(asked, "judge", server.url, tmp_path) == expected | {"cost": None}
    client.ask(asked[3:], "judge", server.url, tmp_path)
    expected = {"calls": 3, "stored": 1, "prompt_tokens": 3 * 7 + 2 + 4 + 6, "completion_tokens": 300}
    cost = (33 * 2.5 + 300 * 10) / 1e6
    found = client.estimate(asked, "judge", server.url, tmp_path, price="2.5,10")
    assert found == expected | {"cost": pytest.approx(cost)}
    assert len(server.calls) == 1


@pytest.mark.parametrize("price", ["", "5", "5,", "1,2,3", "a,b", "-1,2", "nan,1"])
def test_a_price_that_is_none(price, tmp_path):
    with pytest.raises(UserError, match="price: expected IN,OUT in dollars a million tokens"):
        client.estimate([question()], "judge", "http://127.0.0.1:1/v1", tmp_path, price=price)


def test_tokens_are_near_a_real_tokenizers(smollm2_tokenizer):
    rows = [row for name in ("dev", "test") for row in conversations.load_prompts(f"data/prompts/{name}.jsonl")]
    rows += conversations.load("data/starter.jsonl").rows
    texts = [message["content"] for row in rows for message in row["messages"]]
    counted = sum(len(smollm2_tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    assert 0.9 < sum(map(client.tokens, texts)) / counted < 1.15


# ---- killed, and two at once -------------------------------------------------------------------------------------------


def start(server, cache, count, concurrency):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url, str(cache), str(count), str(concurrency)],
        cwd=ROOT,
        env={**os.environ, "OPENAI_API_KEY": KEY},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_at_any_moment_nothing_that_was_stored_is_asked_again(server, tmp_path):
    chance, kills, count, concurrency = random.Random(7), 5, 200, 6
    server.latency = 0.02
    before = []  # after each kill: what was on disk then, and how many calls there had been
    for _ in range(kills):
        process, calls = start(server, tmp_path, count, concurrency), len(server.calls)
        while len(server.calls) == calls and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.random() / 8)
        process.kill()
        process.wait()
        time.sleep(0.1)  # the server sees to what is out
        before.append((stored(tmp_path), len(server.calls)))
    last = start(server, tmp_path, count, concurrency)
    assert last.wait(60) == 0 and json.loads(last.stdout.read()) == len(before[-1][0])
    for kept, calls in before:
        later = {call["body"]["messages"][0]["content"] for call in server.calls[calls:]}
        assert not kept & later
    assert 0 < len(before[0][0]) < len(before[-1][0]) < count  # it was killed in the middle of work
    assert len(times_asked(server)) == count and len(server.calls) - count <= kills * concurrency


def test_two_processes_share_the_work_and_no_call_is_paid_twice(server, tmp_path):
    server.latency = 0.05
    both = [start(server, tmp_path, 80, 4) for _ in range(2)]
    cached = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert set(times_asked(server).values()) == {1} and len(server.calls) == 80
    assert sum(cached) == 80 and min(cached) < 80


def test_a_process_takes_over_what_another_died_asking(server, tmp_path):
    server.fail(8.0)
    first = start(server, tmp_path, 1, 1)
    while not server.calls:
        time.sleep(0.01)
    ticks = []
    other = threading.Thread(
        target=client.ask, args=(questions(1), "judge", server.url, tmp_path), kwargs={"tick": ticks.append}
    )
    other.start()
    time.sleep(0.7)
    assert not ticks and len(server.calls) == 1  # it waits for the first one's
    first.kill()
    first.wait()
    other.join(5)
    assert len(ticks) == 1 and not ticks[0].cached and len(server.calls) == 2


def test_sixty_calls_take_little_longer_than_they_must(tmp_path):
    took = []
    with OpenAI(latency=0.4) as server:
        client.ask(questions(1), "warm-up", server.url, tmp_path)  # imports `openai`
        while len(took) < 5 and (not took or min(took) > 1.3):  # a busy machine may need a second look
            began = time.monotonic()
            client.ask(questions(60), f"judge {len(took)}", server.url, tmp_path, concurrency=16)
            took.append((time.monotonic() - began) / (60 / 16 * 0.4))
    assert server.most == 16 and min(took) <= 1.3
