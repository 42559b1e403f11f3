"""Where a run keeps what: `runs/<name>/` with recipe.yaml, metrics.jsonl, checkpoint-<step>/ and generations/."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lima import UserError

FORMER = "former"
LOCK = ".training"
RECORDS = ("recipe.yaml", "metrics.jsonl", "samples.jsonl", "wandb.json", "selected.json")
MARKER = "complete.json"  # a checkpoint is complete when it holds this
LIBRARIES = ("torch", "transformers", "trl", "datasets", "accelerate", "deepspeed", "peft", "bitsandbytes")


def write_text(path, text):
    """Writes beside `path` and renames, so that no reader ever sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_jsonl(path, rows):
    """A JSON object a line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path):
    """The rows of a file that this repo wrote."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def parse_epochs(text, name="keep_epochs"):
    """`"5-10"`, `"3"`, `"1,4-6"`, `"none"` or `"all"` → a predicate over epoch numbers (from 1). Errors call it `name`."""
    if text in ("all", "none"):
        return lambda epoch: text == "all"
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise UserError(f"{name}: expected epochs such as 5-10, 3, 1,4-6, all or none; found {text!r}")
    spans = [tuple(map(int, part.split("-"))) for part in text.split(",")]
    if any(span[0] > span[-1] for span in spans):
        raise UserError(f"{name}: {text!r} counts down; write epochs such as 5-10")
    return lambda epoch: any(span[0] <= epoch <= span[-1] for span in spans)


def checkpoints(run):
    """The run's complete checkpoints, oldest first."""
    return [folder for folder in checkpoint_folders(run) if marker(folder)]


def checkpoint_folders(run):
    """Folders with a checkpoint's name, complete or not, oldest first."""
    found = [path for path in Path(run).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of)


def step_of(folder):
    """The step that a checkpoint's name gives."""
    return int(folder.name.split("-")[1])


def marker(checkpoint):
    """What a complete checkpoint says of itself, or None: `step`, `epoch`, `ranks`, `recipe`, `dataset` and `files`, which
    gives `bytes` and `sha256` of every file by its path. `lima/train/checkpoints.py` writes it, last."""
    try:
        content = json.loads((Path(checkpoint) / MARKER).read_text(encoding="utf-8"))
        digest = content.pop("digest", None)
    except (OSError, ValueError, AttributeError):
        return None
    return content if digest in (None, content_digest(content)) else None


def write_marker(checkpoint, content):
    """Makes a checkpoint complete: `content` is what `marker` returns then."""
    text = json.dumps({**content, "digest": content_digest(content)}, indent=1)
    write_text(Path(checkpoint) / MARKER, text)


def content_digest(content):
    """The SHA-256 of what is JSON here, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path, tick=None):
    """The digest of a file, in hex; `tick(bytes)` is called as it is read."""
    with open(path, "rb") as file:
        if tick is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while block := file.read(2**22):
            digest.update(block)
            tick(len(block))
        return digest.hexdigest()


def newest_checkpoint(run):
    """The last checkpoint of a run, or `run` itself if it is a folder with a model in it."""
    run = Path(run)
    if (run / "config.json").exists():
        return run
    found = checkpoints(run) or checkpoints(run / FORMER)  # a run that replaces another may not have got to its first
    if not found:
        have = ", ".join(sorted(p.name for p in Path("runs").glob("*"))) or "none yet"
        raise UserError(f"{run}: no checkpoint there; runs here: {have}; train one with `make sft-NAME`")
    return found[-1]


@contextlib.contextmanager
def locked(folder):
    """Keeps `folder` to this process; the lock is the operating system's and ends with it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def training(run):
    """Keeps `run` to this process while it trains; the first rank's part. Raises `UserError` where another trains it.

    The lock is the operating system's: it ends with the process, however that dies.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    path = Path(run) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with open(path, encoding="utf-8") as file:  # an open writer would keep a failing disk from being remounted
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{run}: {trained_by(run)} trains it; wait, or train beside it with --run_name NAME"
            ) from None
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield


def trained_by(run):
    """The process that trains `run` now, such as "process 12 on node-a"; None if none does."""
    try:
        with open(Path(run) / LOCK, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read() or "a process"
    except FileNotFoundError:
        pass
    return None


def set_aside(run):
    """Moves what an earlier run left in `run` to `run/former`, until `forget_former` finds that a new checkpoint stands."""
    run, found = Path(run), checkpoints(run)
    if not found:
        return
    forget_former(run)
    for path in [*found, *run.glob("generations/checkpoint-*"), *(run / name for name in RECORDS)]:
        if path.exists():
            target = run / FORMER / path.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def forget_former(run):
    """Removes what `set_aside` kept."""
    shutil.rmtree(Path(run) / FORMER, ignore_errors=True)


@contextlib.contextmanager
def full_disk_said(run):
    """Turns what libraries raise when the disk of `run` is full into one line: PyTorch's writer says "unexpected pos", those in
    Rust raise a plain `Exception`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = any(words in str(error) for words in ("No space left", "Disk quota exceeded"))
        if said or (isinstance(error, OSError | RuntimeError) and shutil.disk_usage(run).free < 2**24):
            raise UserError(
                f"{run}: the disk is full; checkpoints that were complete stand; free some, then resume"
            ) from None
        raise


def versions():
    """Library → installed version, for the record of a run."""
    out = {}
    for name in LIBRARIES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def git_commit():
    """The commit that runs, with `+` if files differ from it; None outside a checkout."""

    def git(*words):
        here = Path(__file__).resolve().parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
