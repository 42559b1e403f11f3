"""Stages: commands of this repo, each skipped where it ended well before with the same words on the same files, run one after
another or several runs at a time."""

import contextlib
import ctypes
import json
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

from lima import UserError, runs
from lima.train import base

DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Stage(NamedTuple):
    """words: what follows `python -m`. run: the run's folder that it works in, or None. done: whether what it makes is there.
    files: the files it reads and those it makes, `(paths, paths)`; with them it is also asked whether it has read these. With
    neither, only the command can tell whether there is something to do."""

    label: str
    name: str
    words: list
    log: Path
    run: Path | None = None
    done: Callable | None = None
    files: Callable | None = None


def finished(stage):
    """Whether nothing is left to do: what it makes is there, and it ended well with the same words on the same files."""
    if stage.done and not stage.done():
        return False
    if stage.files is None:
        return stage.done is not None
    try:
        return _state(stage) == json.loads(_stamp(stage).read_text(encoding="utf-8"))
    except (UserError, OSError, ValueError):
        return False


def _stamp(stage):
    return stage.log.with_suffix(".done")


def _state(stage):
    """What a stage was told and has read. Raises `UserError` or `OSError` where a file of it is not there."""
    reads, makes = stage.files()
    for path in makes:
        os.stat(path)
    read = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in map(Path, reads)}
    words = list(map(str, stage.words))
    for flag in {"--base_url", "--price"} & set(words):  # where it is asked and what it costs
        at = words.index(flag)
        del words[at : at + 2]
    return {"words": words, "read": read}


class Failed(Exception):
    """A stage that ended otherwise than with 0: `(stage, exit code, its last words)`."""


class Runner:
    """Runs lists of stages; a list's stages follow each other, `jobs` lists run at a time, each on a share of the GPUs."""

    def __init__(self, jobs=1, gpus=1):
        import torch

        self.jobs, self.stopping, self._children = jobs, False, set()
        self.seconds = []  # of each stage that ran
        present = torch.cuda.device_count()
        if 0 < present < jobs * gpus > gpus:
            raise UserError(
                f"{jobs} runs at a time on {gpus} GPUs each, but there are {present}; lower --jobs or --gpus"
            )
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # where only some are ours
        visible = named if len(named) == present else [str(gpu) for gpu in range(present)]
        self._slots = SimpleQueue()
        for slot in range(jobs):
            self._slots.put(",".join(visible[slot * gpus : (slot + 1) * gpus]) if jobs > 1 else None)
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
                if not finished(stage):
                    self._run(stage, slot)
        except Failed:
            self.stopping = True
            raise
        finally:
            self._slots.put(slot)

    def _run(self, stage, slot):
        if not self._free(stage) or finished(stage):  # another process may have done it meanwhile
            return
        stage.log.parent.mkdir(parents=True, exist_ok=True)
        began, here = time.monotonic(), {**os.environ, **({"CUDA_VISIBLE_DEVICES": slot} if slot else {})}
        with open(stage.log, "ab") as log:
            start = log.tell()
            command = [sys.executable, "-m", *map(str, stage.words)]
            child = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=here, preexec_fn=_with_parent
            )
        self._children.add(child)
        code = child.wait()
        self._children.discard(child)
        if code and not self.stopping:
            raise Failed(stage, code, last_words(stage.log, code, start))
        if code or not self._stamped(stage):
            return
        self.seconds.append(time.monotonic() - began)
        self.say(stage, took(self.seconds[-1]))

    def _free(self, stage):
        """Waits while another process trains the stage's run; False once all stops."""
        said = False
        while stage.run and (by := runs.trained_by(stage.run)):
            if self.stopping:
                return False
            if not said:
                self.say(stage, f"waits for {by}, which trains it")
            said = True
            time.sleep(1)
        return not self.stopping

    def _stamped(self, stage):
        """Notes that a stage has ended well, and says whether it has done its work; it may have been stopped. Raises `Failed`
        where it was not, and what it makes is not there."""
        if stage.files:
            with contextlib.suppress(UserError, OSError):
                runs.write_text(_stamp(stage), json.dumps(_state(stage)) + "\n")
        whole = finished(stage) or not (stage.done or stage.files)
        if not (whole or self.stopping):
            raise Failed(stage, 0, "ended well, but its result is not there")
        return whole

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


def prepare(resolved, words):
    """Of the base of a recipe, resolved and as its `words` name it."""
    name = resolved.model_name_or_path
    return Stage(
        name, "base", ["lima.train.base", *words], Path("runs/logs/base.log"), done=lambda: base.stands(resolved)
    )


def judge_flags(args):
    """How the judge of a parsed command is passed on."""
    return ["--judge", args.judge, *_given(args, "base_url", "price")]


def place_flags(args):
    """Where a parsed command trains: GPUs of a node, and a hostfile of several."""
    return _given(args, "gpus", "hostfile")


def _given(args, *keys):
    return [word for key in keys if getattr(args, key) for word in (f"--{key}", str(getattr(args, key)))]


def report():
    """Of all runs there are then."""
    return Stage("report/index.html", "report", ["lima.evaluate.report"], Path("runs/logs/report.log"))


def told(failure):
    """Says which stage failed and why; returns the exit code."""
    stage, code, said = failure.args
    print(f"\nerror: {stage.label}, {stage.name}: {said}; its log: {stage.log}", file=sys.stderr)
    print("what was done stands; the same command goes on", file=sys.stderr)
    return 2 if code == 2 else 1


def last_words(log, code, start=0):
    """The last line that a command wrote to its log, from byte `start` on, that says why, or the last at all."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + ", as the system does when memory runs out" * (name == "SIGKILL")
    lines = log.read_bytes()[start:].decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    lines = [line.strip() for line in lines[-200:] if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [f"ended with exit code {code}"])[-1].removeprefix("error: ")


def took(seconds):
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"
