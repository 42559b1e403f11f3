"""Stages: commands of this repo, each skipped where what it makes is there, run one after another or several runs at a time."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from lima import runs
from lima.train import base

DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Stage(NamedTuple):
    """words: what follows `python -m`. done: whether there is nothing to do; None where only the command can tell. run: the run's
    folder that it works in, or None."""

    label: str
    name: str
    words: list
    done: Callable | None
    log: Path
    run: Path | None = None


class Failed(Exception):
    """A stage that ended otherwise than with 0: `(stage, exit code, its last words)`."""


class Runner:
    """Runs lists of stages; a list's stages follow each other, `jobs` lists run at a time, each on a share of the GPUs."""

    def __init__(self, jobs=1, gpus=1):
        import torch

        self.jobs, self.stopping, self._children = jobs, False, set()
        self.seconds = []  # of each stage that ran
        present = torch.cuda.device_count()
        self._slots = SimpleQueue()
        for slot in range(jobs):
            own = [str(gpu % present) for gpu in range(slot * gpus, (slot + 1) * gpus)] if present else []
            self._slots.put(",".join(own) if jobs > 1 else None)
        self._print = threading.Lock()

    def all(self, lists):
        """Runs all; raises `Failed` for the first that failed, once those that run beside it have ended. Ctrl-C and SIGTERM reach
        the commands, which save what they have."""
        former = signal.signal(signal.SIGTERM, self._terminated)
        pool = ThreadPoolExecutor(self.jobs)
        futures = [pool.submit(self._list, stages) for stages in lists]
        try:
            for future in futures:
                future.result()
        except BaseException:
            self.stopping = True
            wait(futures)
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGTERM, former)

    def _list(self, stages):
        slot = self._slots.get()
        try:
            for stage in stages:
                if self.stopping:
                    return
                if not (stage.done and stage.done()):
                    self._run(stage, slot)
        except Failed:
            self.stopping = True
            raise
        finally:
            self._slots.put(slot)

    def _run(self, stage, slot):
        while stage.run and (by := runs.trained_by(stage.run)):
            self.say(stage, f"waits for {by}, which trains it")
            time.sleep(5)
        stage.log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        here = {**os.environ, **({"CUDA_VISIBLE_DEVICES": slot} if slot else {})}
        with open(stage.log, "ab") as log:
            command = [sys.executable, "-m", *map(str, stage.words)]
            child = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=here, preexec_fn=_with_parent
            )
        self._children.add(child)
        code = child.wait()
        self._children.discard(child)
        if code or (stage.done and not stage.done()):
            if not self.stopping:
                raise Failed(
                    stage, code, last_words(stage.log, code) if code else "ended well, but its result is not there"
                )
            return
        self.seconds.append(time.monotonic() - began)
        self.say(stage, took(self.seconds[-1]))

    def say(self, stage, text):
        with self._print:
            print(f"  {stage.label:<28} {stage.name:<18} {text}", flush=True)

    def _terminated(self, number, frame):
        self.stopping = True
        for child in list(self._children):
            child.send_signal(signal.SIGTERM)
        raise KeyboardInterrupt


def _with_parent():
    if sys.platform == "linux":  # a command that goes on alone would be in the way of the next start
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGTERM)


def prepare(path, words):
    """Of the base at `path`, that the recipe `words` names."""
    done = (Path(path) / base.RECORD).exists
    return Stage(str(path), "base", ["lima.train.base", *words], done, Path("runs/logs/base.log"))


def judge_flags(args):
    """How the judge of a parsed command is passed on."""
    more = [word for key in ("base_url", "price") if getattr(args, key) for word in (f"--{key}", getattr(args, key))]
    return ["--judge", args.judge, *more]


def place_flags(args):
    """Where a parsed command trains: GPUs of a node, and a hostfile of several."""
    return [
        word for key in ("gpus", "hostfile") if getattr(args, key) for word in (f"--{key}", str(getattr(args, key)))
    ]


def report():
    """Of all runs there are then."""
    return Stage("report/index.html", "report", ["lima.evaluate.report"], None, Path("runs/logs/report.log"))


def told(failure):
    """Says which stage failed and why; returns the exit code."""
    stage, code, said = failure.args
    print(f"\nerror: {stage.label}, {stage.name}: {said}; its log: {stage.log}", file=sys.stderr)
    print("what was done stands; the same command goes on", file=sys.stderr)
    return 2 if code == 2 else 1


def last_words(log, code):
    """The last line of a log that says why, or the last at all."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")]
    lines = [line for line in lines[-200:] if line]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [f"ended with exit code {code}"])[-1].removeprefix("error: ")


def took(seconds):
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"
