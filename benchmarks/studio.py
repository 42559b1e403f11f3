"""How quick the studio is, and whether it ever loses a verdict.

    python -m benchmarks.studio                    two minutes; prints a Markdown table

start      seconds until the first page is answered, with --candidates to review
key        from the key `a` to the next candidate painted, in a headless Chromium,
           --keys times, --pause seconds after each; what is fetched ahead gets no
           more time than that (left out without chromium and playwright)
verdicts   --annotators at once label all pairs over loopback, with one server, and
           with two on the same judgments/, each request going to the other one;
           of ten items they label one twice, and change their mind about another
memory     of one server, after that (resident)

Exit code 1 where a verdict is lost, doubled or not as it was given. The side of an
answer follows from its text on the page, so a mix-up of the systems is seen too.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from lima import exit_codes, runs

ROOT = Path(__file__).resolve().parents[1]
WORDS = (40, 330)  # of a prompt, of a response: about LIMA's
TELLING = ("northern", "southern")  # the first word of the answers of a, of b
PAIR = ("--a", "answers/one", "--b", "answers/two", "--prompts", "random")
CLOCK = """
window.took = [];
let pressed = null;
addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
new MutationObserver(() => {
  if (pressed === null) return;
  const since = pressed;
  pressed = null;
  requestAnimationFrame(() => setTimeout(() => window.took.push(performance.now() - since)));  // after the frame is drawn
}).observe(document.getElementById("main"), { attributeFilter: ["data-n"] });
"""


def texts(seed=0):
    """Texts of `count` words, in paragraphs with a list, as `text(count)`."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(8000)]

    def text(count):
        parts = [" ".join(chance.choices(words, k=min(60, count - at))) for at in range(0, count, 60)]
        return "\n\n".join(f"- **{part}**" if n % 3 == 2 else part for n, part in enumerate(parts))

    return text


def write_candidates(folder, count):
    text = texts()
    rows = [
        {"id": f"c{n}", "source": f"source{n % 7}", "messages": [
            {"role": role, "content": text(words)} for role, words in zip(("user", "assistant"), WORDS, strict=True)]}
        for n in range(count)
    ]  # fmt: skip
    runs.write_jsonl(folder / "c.jsonl", rows)


def write_answers(folder, count):
    text = texts(1)
    prompts = [f"{n} {text(WORDS[0])}" for n in range(count)]
    for system, word in zip(("one", "two"), TELLING, strict=True):
        rows = [
            {"prompt_id": f"p{n}", "prompt": prompt, "response": f"{word} {text(WORDS[1])}"}
            for n, prompt in enumerate(prompts)
        ]
        runs.write_jsonl(folder / f"answers/{system}/random.jsonl", rows)


@contextlib.contextmanager
def serve(folder, *words):
    """`(port, process, seconds until it answered)` of a studio in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "lima.studio.serve", "--data", "c.jsonl", "--port", str(port), *words]
    started = time.perf_counter()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL)
    try:
        while not first_page(port):
            if process.poll() is not None:
                raise RuntimeError("the studio ended before it answered")
            time.sleep(0.01)
        yield port, process, time.perf_counter() - started
    finally:
        process.terminate()
        process.wait()


def first_page(port):
    try:
        return ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60), "/", parse=False)
    except ConnectionError:
        return None


def ask(connection, path, body=None, parse=True):
    """What the studio answers. Raises `RuntimeError` for a refusal."""
    head = {"Content-Type": "application/json"}
    connection.request("POST" if body else "GET", path, body and json.dumps(body), head if body else {})
    reply = connection.getresponse()
    text = reply.read()
    if reply.status != 200:
        raise RuntimeError(f"{path}: {reply.status} {text[:200]}")
    return json.loads(text) if parse else text


def keys(port, times, pause):
    """Milliseconds of each key, or None where there is no browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if not (chromium := shutil.which("chromium")):
        return None
    flags = ["--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=flags, chromium_sandbox=False)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/review")
        page.fill("#name", "bench")
        page.keyboard.press("Enter")
        page.wait_for_selector("#candidate")
        page.evaluate(CLOCK)
        for n in range(times):
            page.wait_for_timeout(1000 * pause)
            page.keyboard.press("a")
            while page.evaluate("took.length") <= n:
                time.sleep(0.002)
        took = page.evaluate("took")
        browser.close()
    return took


def label(who, number, ports):
    """One annotator's whole share. Returns `{(judge, prompt id): verdict}` as it was given last, and the milliseconds of each
    saving."""
    links = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for port in ports]
    given, took = {}, []

    def put(n, key, choice):
        started = time.perf_counter()
        ask(links[n % len(links)], f"/api/compare/items/{key}", {"who": who, "choice": choice, "seconds": 1})
        took.append(1000 * (time.perf_counter() - started))

    for n, (key, _) in enumerate(ask(links[0], f"/api/compare/session?who={who}")["items"]):
        item = ask(links[n % len(links)], f"/api/compare/items/{key}?who={who}")
        prompt = int(item["prompt"].removeprefix("<p>").split()[0])
        wanted = (prompt + number) % 3  # 0: a's text, 1: b's, 2: neither
        choice = 3 if wanted == 2 else 1 if TELLING[wanted] in item["answers"][0] else 2
        if n % 10 == 3:
            put(n, key, choice % 3 + 1)  # another first
        put(n + 1, key, choice)
        if n % 10 == 7:
            put(n, key, choice)  # the same again
        given[f"human:{who}", f"p{prompt}"] = ("a", "b", "tie")[wanted]
    return given, took


def verdicts(folder, annotators, servers):
    """A row of the table, and whether all is well: what `annotators` give at once, and what is on disk afterwards."""
    file = folder / "judgments/one-vs-two.jsonl"
    file.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        studios = [stack.enter_context(serve(folder, *PAIR)) for _ in range(servers)]
        ports, started = [port for port, _, _ in studios], time.perf_counter()
        with ThreadPoolExecutor(annotators) as pool:
            done = list(
                pool.map(
                    lambda n: label(f"person{n}", n, ports[n % servers :] + ports[: n % servers]), range(annotators)
                )
            )
        seconds = time.perf_counter() - started
        memory = psutil.Process(studios[0][1].pid).memory_info().rss
    given = {place: verdict for one, _ in done for place, verdict in one.items()}
    rows = runs.read_jsonl(file)
    found = Counter((row["judge"], row["prompt_id"]) for row in rows)
    lost, doubled = len(given.keys() - found.keys()), sum(found.values()) - len(found)
    wrong = sum(given.get((row["judge"], row["prompt_id"])) != row["verdict"] for row in rows)
    save = statistics.median(one for _, took in done for one in took)
    name = f"{len(given):,} verdicts, {annotators} annotators, {servers} server{'s' * (servers > 1)}"
    said = f"{len(rows):,} rows, {lost} lost, {doubled} doubled, {wrong} wrong; {seconds:.1f} s; {save:.0f} ms a saving, median"
    return (
        (name, said),
        (f"memory of a server ({servers} at work)", f"{memory / 2**20:.0f} MiB"),
        not (lost or doubled or wrong),
    )


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1000, help="[%(default)s]")
    parser.add_argument("--keys", type=int, default=100, help="[%(default)s]")
    parser.add_argument("--pause", type=float, default=0.35, help="[%(default)s]")
    parser.add_argument("--annotators", type=int, default=8, help="[%(default)s]")
    parser.add_argument("--verdicts", type=int, default=2000, help="of all annotators together [%(default)s]")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_candidates(folder, args.candidates)
        write_answers(folder, args.verdicts // args.annotators)
        with serve(folder) as (port, _, seconds):
            took = keys(port, args.keys, args.pause)
        table = [(f"start, {args.candidates:,} candidates", f"{seconds:.1f} s")]
        if took:
            late = statistics.quantiles(took, n=20)[-1]
            said = f"{statistics.median(took):.0f} ms median, {late:.0f} ms 95th percentile"
            table.append((f"key to next candidate, {len(took)} times", said))
        well = True
        for servers in (1, 2):
            row, memory, good = verdicts(folder, args.annotators, servers)
            table += [row, memory]
            well = well and good
    print("| | |\n|---|---|")
    for row in table:
        print("| " + " | ".join(row) + " |")
    if not well:
        print("error: verdicts were lost, doubled or mixed up", file=sys.stderr)
    return 0 if well else 1


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
