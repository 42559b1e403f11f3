"""One rank among several: its output goes to a file of its own, and what stops it is said once, by who started it.

`lima/train/launch.py` starts the ranks with torchrun and prints what the first of them to fail wrote here.
"""

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

from lima import UserError

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun gives every rank the path of one
SAID_OF_THE_DEAD = re.compile(
    r"connection (closed|reset)|remote (worker|process)|timed out|nccl(Remote|System)Error|broken pipe", re.IGNORECASE
)
STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # Slurm and Kubernetes, Slurm by request, Ctrl-C
_log = None  # of this rank, once `own_log` has set it


def log_file(folder, rank):
    """Where a rank of the run in `folder` writes what it prints."""
    return Path(folder) / "logs" / f"rank-{rank:02d}.log"


def own_log(folder):
    """Several ranks: sends this one's output to its `log_file`; the first rank's to the terminal too."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    global _log
    rank = int(os.environ["RANK"])
    path = _log = log_file(folder, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n==== {time.strftime('%F %T')} · rank {rank} · {socket.gethostname()} · process {os.getpid()}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        if rank:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            return
    os.environ.setdefault("COLUMNS", str(shutil.get_terminal_size().columns))  # a pipe has no width
    copies = [_copied(stream, path) for stream in (1, 2)]
    atexit.register(_finish, copies)


def _copied(stream, path):
    """Sends a file descriptor through `tee`, which Ctrl-C does not stop before its writer."""
    tee = subprocess.Popen(["tee", "-ai", str(path)], stdin=subprocess.PIPE, stdout=os.dup(stream))
    os.dup2(tee.stdin.fileno(), stream)
    tee.stdin.close()
    return tee


def _finish(copies):
    for stream, tee in zip((sys.stdout, sys.stderr), copies, strict=True):
        stream.flush()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        with contextlib.suppress(subprocess.TimeoutExpired):  # somebody in this process may hold a copy of the stream
            tee.wait(timeout=1)


@contextlib.contextmanager
def failures_recorded():
    """Leaves word of why this rank stops where torchrun's agent looks, in the form that it reads.

    A rank that stops only because another did keeps its traceback to its log. Memory that a GPU lacks is a `UserError`.
    """
    try:
        with _memory_said():
            yield
    except UserError as error:
        _record("mend", str(error))
        raise
    except Exception as error:
        if _another_died(error):
            _record("lost", f"lost contact with another rank ({_one_line(error)})")
            _stop_quietly()
        _record("broke", _one_line(error))
        raise


@contextlib.contextmanager
def _memory_said():
    try:
        yield
    except RuntimeError as error:
        import torch  # not before something failed: `--help` is quick without it

        if not isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"rank {os.environ.get('RANK', 0)} ran out of GPU memory; docs/scale.md says what to turn, in order; "
            "first tokens_per_device"
        ) from None


def _another_died(error):
    """Whether it is what communication says when another rank is gone."""
    return ERROR_FILE in os.environ and (
        type(error).__name__.startswith("Dist")
        or (isinstance(error, RuntimeError) and bool(SAID_OF_THE_DEAD.search(str(error))))
    )


def _one_line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _record(kind, text):
    if ERROR_FILE in os.environ:
        more = {"timestamp": str(int(time.time())), "py_callstack": traceback.format_exc()}
        word = {"message": text, "kind": kind, "at": time.time(), "extraInfo": more}
        Path(os.environ[ERROR_FILE]).write_text(json.dumps({"message": word}), encoding="utf-8")


def _stop_quietly():
    """Ends at once, with the traceback in the log: a process group that lost a member hangs when it is closed in order."""
    if _log:
        with _log.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
    sys.stdout.flush()
    os._exit(1)


def when_told_to_stop(pass_on, at_once):
    """From now on calls `pass_on(number)` for each of the signals `STOP`; a second Ctrl-C raises `at_once` instead.

    For a launcher; the ranks have `stopping.StopWhenTold`. Returns the list of signals that came, which goes on growing. What
    `pass_on` says it must not print: the signal may have interrupted a print.
    """
    told = []

    def hear(number, frame):
        if number == signal.SIGINT and number in told:
            raise at_once
        told.append(number)
        pass_on(number)

    for number in STOP:
        signal.signal(number, hear)
    return told


# ---- what the ranks do together --------------------------------------------------------------------------------------


def place():
    """`(this rank, how many there are)`."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def wait():
    """Until every rank is here."""
    gathered(None)


def gathered(mine):
    """What each rank brings, as a list; every rank gets it."""
    from torch import distributed

    if not distributed.is_initialized():
        return [mine]
    out = [None] * distributed.get_world_size()
    distributed.all_gather_object(out, mine)
    return out
