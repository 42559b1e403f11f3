"""Another model's answers through a loopback endpoint, as files of ours."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from servers.openai import OpenAI

from lima import UserError, conversations, runs
from lima.evaluate import answers, endpoint_answers


@pytest.fixture
def place(no_key, tmp_path):
    """An empty working directory with the bundled prompts."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    return tmp_path


@pytest.fixture
def server():
    with OpenAI(lambda messages: "To answer: " + messages[-1]["content"]) as running:
        yield running


def answer(server, *flags):
    return endpoint_answers.main(["--model", "org/other 7B", "--base_url", server.url, *map(str, flags)])


def test_answers_are_a_file_of_ours(place, server, capsys):
    answer(server, "--prompts", "dev", "--max_tokens", 20)
    prompts = conversations.load_prompts("data/prompts/dev.jsonl")
    found = answers.load("answers/org-other-7B")
    assert found.name == "org-other-7B" and found.path.name == "dev.jsonl"
    sampling = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 20, "seed": None, "model": "org/other 7B"}
    sampling |= {"engine": "endpoint", "endpoint": server.url}
    expected = []
    for prompt in prompts:
        text = "To answer: " + prompt["messages"][-1]["content"]
        cut = len(text.split()) > 20  # a token is a word there
        expected.append(
            {
                "prompt_id": prompt["id"],
                "prompt": prompt["messages"][-1]["content"],
                "response": " ".join(text.split()[:20]) if cut else text,
                "finish_reason": "length" if cut else "eos",
                "tokens": min(20, len(text.split())),
                "sampling": sampling,
                "sample": 0,
            }
        )
    assert runs.read_jsonl(found.path) == expected == found.rows
    cut = sum(row["finish_reason"] == "length" for row in expected)
    assert 0 < cut < len(prompts)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{len(prompts)} answers ({cut} cut at the limit) → answers/org-other-7B/dev.jsonl"
    sent = server.calls[0]["body"]
    assert {key: sent[key] for key in sent if key != "messages"} == {
        "model": "org/other 7B",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 20,
    }


def test_the_whole_conversation_is_sent(place, server):
    turns = ["Hello?", "Hello!", "How are you?"]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    runs.write_jsonl("mine.jsonl", [{"id": "a", "messages": messages}])
    answer(server, "--prompts", "mine.jsonl", "--out", "mine/out.jsonl")
    assert server.calls[0]["body"]["messages"] == messages
    assert runs.read_jsonl("mine/out.jsonl")[0]["prompt"] == "How are you?"


def test_the_plan_says_calls_tokens_and_cost_and_asks_nothing(place, server, capsys):
    answer(server, "--limit", 10, "--max_tokens", 100, "--price", "2.5,10", "--dry_run")
    prompts = conversations.load_prompts("data/prompts/dev.jsonl")[:10]
    read = sum(7 + -(-len(prompt["messages"][0]["content"].encode()) // 4) for prompt in prompts)
    said = capsys.readouterr().out
    assert said.splitlines() == [
        f"model    org/other 7B at {server.url}",
        "prompts  10 of dev, one answer each; 0 are in answers/org-other-7B/dev.jsonl",
        "calls    10; 0 replies are in judgments/cache",
        f"tokens   about {read} to read (4 bytes each), at most 1,000 to write",
        f"cost     at most ${(read * 2.5 + 1000 * 10) / 1e6:.2f} (2.5,10 a million)",
    ]
    assert not server.calls and not (place / "answers").exists() and max(map(len, said.splitlines())) <= 80


def test_more_is_added_and_nothing_is_asked_twice(place, server, capsys):
    answer(server, "--limit", 3)
    answer(server, "--limit", 5, "--samples", 2)
    assert len(server.calls) == 10
    rows = runs.read_jsonl("answers/org-other-7B/dev.jsonl")
    ids = [prompt["id"] for prompt in conversations.load_prompts("data/prompts/dev.jsonl")]
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [(name, s) for name in ids[:5] for s in range(2)]
    answer(server, "--limit", 2)  # fewer leaves what is there
    assert runs.read_jsonl("answers/org-other-7B/dev.jsonl") == rows and len(server.calls) == 10
    os.remove("answers/org-other-7B/dev.jsonl")
    answer(server, "--limit", 5, "--samples", 2)  # the replies are kept apart
    assert runs.read_jsonl("answers/org-other-7B/dev.jsonl") == rows and len(server.calls) == 10
    assert "calls    0; 10 replies are in judgments/cache" in capsys.readouterr().out


def test_nothing_to_ask_costs_nothing_and_shows_no_bar(place, server, capsys):
    answer(server, "--limit", 2, "--price", "2,10")
    words = [len(call["messages"][0]["content"].split()) for call in server.answered]
    assert (
        f"used     {sum(words):,} tokens in, {sum(words) + 4:,} out, $0.0" in capsys.readouterr().out
    )  # "To answer: "
    answer(server, "--limit", 2, "--price", "2,10")
    said = capsys.readouterr()
    assert "calls    0" in said.out and "cost     at most $0.00 (" in said.out and "used" not in said.out
    assert "answer/s" not in said.err


def test_samples_differ_by_their_seed(place, server):
    answer(server, "--limit", 1, "--samples", 3, "--seed", 40)
    assert sorted(call["body"]["seed"] for call in server.calls) == [40, 41, 42]


def test_other_settings_replace_nothing_unasked(place, server):
    answer(server, "--limit", 2)
    before = (place / "answers/org-other-7B/dev.jsonl").read_text()
    with pytest.raises(UserError, match=r"with other settings: temperature 0.7 \(now 1.0\)"):
        answer(server, "--limit", 2, "--temperature", 1)
    assert (place / "answers/org-other-7B/dev.jsonl").read_text() == before and len(server.calls) == 2
    answer(server, "--limit", 2, "--temperature", 1, "--overwrite")
    assert [row["sampling"]["temperature"] for row in runs.read_jsonl("answers/org-other-7B/dev.jsonl")] == [1.0, 1.0]


def test_what_came_is_written_where_not_all_did(place, server):
    server.fail(400, at=2, error=("the prompt is longer than the context", None, None))
    with pytest.raises(UserError, match=r"1 of 4 answers did not come \(400 the prompt is longer .*\); run this again"):
        answer(server, "--limit", 4, "--concurrency", 1)
    assert len(runs.read_jsonl("answers/org-other-7B/dev.jsonl")) == 3
    answer(server, "--limit", 4)
    assert len(runs.read_jsonl("answers/org-other-7B/dev.jsonl")) == 4 and len(server.calls) == 5


def test_an_empty_answer_is_one(place, capsys):
    with OpenAI(lambda messages: "") as server:
        answer(server, "--limit", 2)
    assert [row["response"] for row in answers.load("answers/org-other-7B").rows] == ["", ""]
    assert "2 answers (2 empty)" in capsys.readouterr().out


def test_stopped_by_ctrl_c_it_goes_on(place, server):
    words = ["--model", "other", "--base_url", server.url, "--prompts", "dev", "--concurrency", "2"]
    command = [sys.executable, "-m", "lima.evaluate.endpoint_answers", *words]
    server.latency = 0.05
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    while len(server.answered) < 5:
        time.sleep(0.005)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=30)[1]
    assert first.returncode == 130 and "Traceback" not in said and "stopped by Ctrl-C" in said
    kept, calls = len(list(place.glob("judgments/cache/??/*.json"))), len(server.calls)
    assert kept + 2 >= 5 and kept < 50 and not (place / "answers").exists()
    second = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert second.returncode == 0 and len(runs.read_jsonl("answers/other/dev.jsonl")) == 50
    assert len(server.calls) - calls == 50 - kept


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--prompts", "nope"], "data/prompts/nope.jsonl: no such prompts; there are: .*dev"),
        (["--prompts", "nope.jsonl"], "nope.jsonl: no such file"),
        (["--limit", "0"], "--limit: expected 1 or more, found 0"),
        (["--max_tokens", "-1"], "--max_tokens: expected 1 or more"),
        (["--samples", "0"], "--samples: expected 1 or more"),
        (["--model", ""], "^MODEL is missing: make answers MODEL="),
        (["--out", "answers"], "--out: expected a name that ends in .jsonl, found answers"),
        (["--concurrency", "0"], "^--concurrency: expected 1 or more, found 0$"),
        (["--rate", "0"], "^--rate: expected a number above 0, found 0$"),
        (["--price", "five"], "price: expected IN,OUT in dollars a million tokens"),
        (["--base_url", "localhost:8000"], "base_url: expected a URL such as http://127.0.0.1:8000/v1"),
    ],
)
def test_a_careless_command_is_one_line(flags, said, place, server):
    with pytest.raises(UserError, match=said) as error:
        answer(server, *flags)
    assert "\n" not in str(error.value) and not server.calls and not (place / "answers").exists()


def test_without_a_key_openai_is_not_asked(place):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("OPENAI_BASE_URL", None)
    command = [sys.executable, "-m", "lima.evaluate.endpoint_answers", "--model", "gpt-4o"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 2 and "OPENAI_API_KEY is not set; set it, or name another server" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command, "--dry_run"], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "calls    50;" in done.stdout and "cost     unknown" in done.stdout


def test_a_reply_is_kept_with_its_question(place, server):
    answer(server, "--limit", 1)
    kept = json.loads(next(place.glob("judgments/cache/??/*.json")).read_text(encoding="utf-8"))
    assert kept["model"] == kept["served"] == "org/other 7B" and kept["url"] == server.url
    assert kept["reply"]["text"] == "To answer: " + kept["request"]["messages"][0]["content"]
