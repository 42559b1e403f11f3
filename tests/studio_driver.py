"""The studio as a process of its own, and the keys and pages of a real Chromium, for the tests in a browser."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from conftest import ROOT

from lima import runs

FLAGS = ("quic", "background-networking", "component-update", "sync", "gpu")
SYSTEMS = {"zebra": "northern", "quokka": "southern"}  # the texts that tell them apart hold no name
PAIR = ("--a", "answers/zebra", "--b", "answers/quokka", "--prompts", "test")
SOON = 330  # milliseconds: what comes sooner after an item appears is taken for half of a double click


@contextlib.contextmanager
def chromium():
    """A headless browser; skips the test where there is none."""
    found = shutil.which("chromium")
    if not found:
        pytest.skip("no chromium on the PATH")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as driver:
        flags = [*(f"--disable-{name}" for name in FLAGS), "--no-first-run"]
        browser = driver.chromium.launch(executable_path=found, args=flags, chromium_sandbox=False)
        yield browser
        browser.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Studio:
    """`python -m lima.studio.serve WORDS` in `folder`; as a context, it is killed at the end."""

    def __init__(self, folder, *words, port=None, **env):
        self.folder, self.port = folder, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "lima.studio.serve", "--port", str(self.port), *map(str, words)]
        self.command, self.env = command, {**os.environ, "PYTHONPATH": str(ROOT), **env}

    def start(self):
        """Returns once the port answers, whatever it says."""
        with open(self.folder / "studio.log", "ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, env=self.env, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.folder / "studio.log").read_text()
            if self._answers():
                return self
            time.sleep(0.05)
        raise AssertionError("the studio did not start within a minute")

    def _answers(self):
        try:
            urllib.request.urlopen(self.url, timeout=60).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def kill(self):
        self.process.kill()
        self.process.wait()

    __enter__ = start

    def __exit__(self, *_):
        self.kill()

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return json.load(reply)

    def post(self, path, body):
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), head)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)


def candidates(path, count, sources=("one", "two")):
    """Writes `count` candidates, sources in turn; ids c0, c1, …"""
    rows = [
        {"id": f"c{n}", "source": sources[n % len(sources)],
         "messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Reply {n}."}]}
        for n in range(count)
    ]  # fmt: skip
    runs.write_jsonl(path, rows)


def answers(folder, count, **systems):
    """Writes `folder/answers/SYSTEM/test.jsonl`; a system's text is its word and the prompt's number."""
    for system, word in systems.items():
        rows = [
            {"prompt_id": f"p{n}", "prompt": f"Question {n}?", "response": f"{word} {n}", "sample": 0}
            for n in range(count)
        ]
        runs.write_jsonl(folder / f"answers/{system}/test.jsonl", rows)


def enter(page, url, room, who):
    """Opens a room under a name, and waits for what is in it."""
    page.goto(f"{url}/{room}")
    page.fill("#name", who)
    page.keyboard.press("Enter")
    page.wait_for_selector("#candidate, .answers, #main > .hint, .found")


def on_screen(page):
    """What the page says it shows: a candidate's number, or an item's id."""
    return page.get_attribute("#main", "data-n") or page.get_attribute("#main", "data-id")


def wait_for_other(page, before):
    """Waits until another item than `before` is shown, or there are no more."""
    name = "n" if page.get_attribute("#main", "data-n") else "id"
    page.wait_for_selector(f'#main[data-{name}]:not([data-{name}="{before}"]), #main > .hint, .found')


def press(page, key):
    """A key that leads to another item."""
    before = on_screen(page)
    page.keyboard.press(key)
    wait_for_other(page, before)


def choose(page, key):
    """A choice or a decision, no sooner than a person makes it; then the next item."""
    page.wait_for_timeout(SOON)
    press(page, key)


def tab_to(page, where):
    while page.evaluate("document.activeElement.id") != where:
        page.keyboard.press("Tab")


def side(page, word):
    """The key of the answer that contains `word`."""
    first, second = page.locator(".answer .text").all_inner_texts()
    assert (word in first) != (word in second)
    return "1" if word in first else "2"


def verdicts(folder, who):
    """The rows that an annotator has on disk."""
    file = folder / "judgments/zebra-vs-quokka.jsonl"
    return [row for row in runs.read_jsonl(file) if row["judge"] == f"human:{who}"] if file.exists() else []
