"""What judging costs in time beside the endpoint's own: 300 prompts in both orders, a stand-in that takes 200 ms an answer.

python -m benchmarks.judging [--times 3] [--prompts 300] [--latency 0.2] [--concurrency 16]      prints a Markdown table

The ideal is calls × latency ÷ concurrency. `ask` is the client alone; the whole command also starts Python, imports, reads both
systems' answers, writes verdicts and their intervals; "again" finds every reply in the cache, or every verdict in its file.
The stand-in (tests/servers/openai.py) runs in a process of its own, on this machine.
"""

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lima import exit_codes, runs
from lima.evaluate import client

ROOT = Path(__file__).resolve().parents[1]
WORDS = (30, 250)  # of a prompt, of an answer: about LIMA's


@contextlib.contextmanager
def stand_in(latency):
    """The URL of an endpoint that answers after `latency` seconds."""
    words = ["tests/servers/openai.py", "--latency", str(latency), "--answer", "Because of its order.\nVerdict: A"]
    server = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def write_answers(folder, prompts):
    """Two systems' answers to the same prompts, random words, in `folder`."""
    chance = random.Random(0)

    def text(count):
        return " ".join("".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 8))) for _ in range(count))

    asked = [text(WORDS[0]) for _ in range(prompts)]
    for name in ("one", "two"):
        rows = [{"prompt_id": f"p{n}", "prompt": prompt, "response": text(WORDS[1])} for n, prompt in enumerate(asked)]
        runs.write_jsonl(folder / f"{name}.jsonl", rows)


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def judge(folder, url, concurrency):
    """The command, with `folder` as its working directory."""
    words = ["--a", "one.jsonl", "--b", "two.jsonl", "--judge", "stand-in", "--base_url", url, "--prompts", "random"]
    command = [sys.executable, "-m", "lima.evaluate.judge", *words, "--concurrency", str(concurrency)]
    subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL
    )


def once(args):
    """`{what: seconds}` of one round."""
    with tempfile.TemporaryDirectory() as folder, stand_in(args.latency) as url:
        folder = Path(folder)
        text = "word " * (WORDS[0] + 2 * WORDS[1])
        requests = [{"messages": [{"role": "user", "content": f"{n} {text}"}]} for n in range(2 * args.prompts)]
        client.ask(requests[:1], "warm-up", url, folder / "alone")  # imports `openai`
        took = {"`ask`": seconds(lambda: client.ask(requests, "m", url, folder / "alone", args.concurrency))}
        write_answers(folder, args.prompts)
        took["the whole command"] = seconds(lambda: judge(folder, url, args.concurrency))
        took["again, verdicts there"] = seconds(lambda: judge(folder, url, args.concurrency))
        (folder / "judgments/one-vs-two.jsonl").unlink()
        took["again, replies in the cache"] = seconds(lambda: judge(folder, url, args.concurrency))
    return took


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="rounds; the median counts [%(default)s]")
    parser.add_argument("--prompts", type=int, default=300, help="[%(default)s]")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds an answer [%(default)s]")
    parser.add_argument("--concurrency", type=int, default=16, help="[%(default)s]")
    args = parser.parse_args(argv)
    rounds = [once(args) for _ in range(args.times)]
    ideal = 2 * args.prompts * args.latency / args.concurrency
    print(f"{2 * args.prompts} calls, {args.latency:g} s each, {args.concurrency} at a time; median of {args.times}\n")
    print(f"| | seconds | × ideal |\n|---|---:|---:|\n| ideal | {ideal:.1f} | 1.00 |")
    for name in rounds[0]:
        median = statistics.median(took[name] for took in rounds)
        print(f"| {name} | {median:.1f} | {'–' if 'again' in name else f'{median / ideal:.2f}'} |")


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
