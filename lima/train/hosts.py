"""The hosts of a run: the hostfile, starting the launcher on each by ssh, and what the network between them offers."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from lima import UserError
from lima.train import ranks

PASSED_ON = ("NCCL_", "GLOO_", "TORCH_", "OMP_", "HF_HOME", "HF_HUB_OFFLINE", "WANDB_MODE", "WANDB_PROJECT", "CUDA_")
GRACE = 10  # seconds for the others to say why they stop, once one has: the first host prints the first cause
SSH = ["ssh", "-tt", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]  # -tt: what runs there ends with the connection


def read(place):
    """The hosts of `place.hostfile`, a `host slots=8` a line; sets `nodes` and `gpus` of `place` from it.

    Raises `UserError` for a line that is not one, slots that differ, or a host whose name nobody knows.
    """
    path = Path(place.hostfile)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); see launch/hostfile.example") from None
    slots = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not words[1].startswith("slots=") or not words[1][6:].isdigit() or not int(words[1][6:]):
            raise UserError(f"{path}, line {number}: expected `host slots=8`, found {line.strip()!r}")
        if words[0] in slots:
            raise UserError(f"{path}, line {number}: {words[0]} stands there twice")
        slots[words[0]] = int(words[1][6:])
        resolve(words[0], f"{path}, line {number}")
    if not slots:
        raise UserError(f"{path}: names no host; see launch/hostfile.example")
    chosen = list(slots)[: place.nodes] if place.nodes > 1 else list(slots)
    if place.nodes > len(slots):
        raise UserError(f"{path}: names {len(slots)} hosts, NODES={place.nodes}")
    place.nodes = len(chosen)
    place.gpus = place.gpus or min(slots[host] for host in chosen)
    short = [host for host in chosen if slots[host] < place.gpus]
    if short:
        raise UserError(f"{path}: {short[0]} has {slots[short[0]]} slots, GPUS={place.gpus}")
    place.master_addr = place.master_addr or chosen[0]
    return chosen


def resolve(host, where):
    """Raises `UserError`, naming `where` it was read, for a host that has no address."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise UserError(f"{where}: unknown host {host} ({error.strerror})") from None


def run_all(place, args, words):
    """Starts the launcher on every host and waits for all; when one ends badly the others are stopped. Returns the exit code.

    The first host's output is shown, the others' go to `runs/NAME/logs/node-N.log`. A signal to stop is passed on to the first
    host, whose ranks tell the others; a second Ctrl-C stops all at once.
    """
    told = _pass_on_signals(place)
    folder = ranks.log_file(args.output_dir, 0).parent
    folder.mkdir(parents=True, exist_ok=True)
    started = []
    for node, host in enumerate(place.hosts):
        log = folder / f"node-{node}.log"
        where = None if node == 0 else log.open("w", encoding="utf-8")
        command = [*SSH, host, remote(place, node, words)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=where, stderr=where, start_new_session=True
        )  # a session of its own: Ctrl-C is for us
        started.append((host, log, process))
    try:
        return _wait(started) or (130 if signal.SIGINT in told else 0)
    finally:
        for _, _, process in started:
            process.terminate()


def _pass_on_signals(place):
    """Has the first host's launcher told to save and stop when this one is; see `ranks.when_told_to_stop`."""
    # not the ssh that started it, if it is this host
    launcher = f"^{re.escape(sys.executable)} -m lima.train.launch "
    pattern = f"{launcher}.*--node-rank 0 .*--master-port {place.master_port} "
    tell = [*SSH, place.hosts[0], f"pkill -USR1 -f {shlex.quote(pattern)}"]

    def pass_on(number):
        os.write(2, b"\ntold to stop: the ranks save at the end of this step; Ctrl-C again to stop at once\n")
        subprocess.Popen(tell, stdin=subprocess.DEVNULL)

    return ranks.when_told_to_stop(pass_on, KeyboardInterrupt())


def _wait(started):
    while True:
        codes = [process.poll() for _, _, process in started]
        bad = [node for node, code in enumerate(codes) if code]
        if bad:
            time.sleep(GRACE)
            if not codes[0]:
                print(f"\nerror: node {bad[0]} {_last_words(*started[bad[0]])}", file=sys.stderr)
            return 2 if 2 in codes else 1
        if not any(code is None for code in codes):
            return 0
        time.sleep(0.2)


def _last_words(host, log, process):
    """What a host's output ended with, its error if it has one."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = [*errors[:1], *lines[-1:], "nothing"][0].removeprefix("error: ")
    return f"({host}) ended with exit code {process.returncode}: {said}; its output: {log}"


def remote(place, node, words):
    """The shell command that starts the launcher of `node`: the same folder, the same Python, the network's settings."""
    settings = [f"{key}={value}" for key, value in os.environ.items() if key.startswith(PASSED_ON)]
    launch = [sys.executable, "-m", "lima.train.launch", "--nodes", place.nodes, "--gpus", place.gpus, "--node-rank", node,
              "--master-addr", place.master_addr, "--master-port", place.master_port, "--join-timeout", place.join_timeout,
              *words]  # fmt: skip
    return f"cd {shlex.quote(os.getcwd())} && exec env {shlex.join([*settings, *map(str, launch)])}"


def network():
    """`(topic, text)` lines: the interfaces that are up, InfiniBand devices, and what the environment tells NCCL of them."""
    up = [
        path.name
        for path in sorted(Path("/sys/class/net").glob("*"))
        if path.name != "lo" and _state(path / "operstate") != "down"
    ]
    fast = [
        f"{path.name} ({_state(path / 'ports/1/state')})" for path in sorted(Path("/sys/class/infiniband").glob("*"))
    ]
    told = [f"{key}={os.environ[key]}" for key in sorted(os.environ) if key.startswith(("NCCL_", "GLOO_"))]
    return [
        ("network", f"interfaces {', '.join(up) or 'none but loopback'} · InfiniBand {', '.join(fast) or 'none'}"),
        ("", " ".join(told) or "no NCCL_* set; NCCL_SOCKET_IFNAME names the interface if it takes the wrong one"),
    ]


def _state(path):
    try:
        return path.read_text().strip()
    except OSError:
        return "unknown"
