"""Starting ranks: what is refused beforehand, and what the terminal says when a rank fails, on real torchrun agents."""

import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from lima import UserError, recipe
from lima.train import launch

FIT = ["--ignore_fit", "true", "--model_name_or_path", "absent"]


def place(*words):
    return launch.arguments([str(word) for word in words])[0]


def load(*flags):
    return recipe.load(["--config", "recipes/65b.yaml", *FIT, *map(str, flags)])


# ---- before anything starts -----------------------------------------------------------------------------------------


def test_what_is_not_about_the_place_is_left_for_the_recipe():
    where, words = launch.arguments(
        ["--nodes", "2", "--config", "r.yaml", "--learning_rate", "2e-5", "--gpus", "8", "--node-rank", "1"]
    )
    assert (where.nodes, where.gpus, where.node_rank) == (2, 8, 1)
    assert words == ["--config", "r.yaml", "--learning_rate", "2e-5"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--nodes 4 --gpus 8", r"NODES=4: every node needs its own NODE_RANK=0…3 and the same MASTER_ADDR.*HOSTFILE"),
        ("--nodes 4 --gpus 8 --node-rank 4 --master-addr localhost", r"NODE_RANK=4: expected 0 to 3"),
        ("--nodes 8 --gpus 8 --node-rank 0 --master-addr localhost", r"8 × 8 = 64 ranks cannot share the 32 examples"),
        ("--nodes 2 --gpus 1 --node-rank 0 --master-addr no.such.host.invalid", r"MASTER_ADDR: unknown host no\.such"),
        ("--nodes 0 --gpus 8", r"NODES=0 GPUS=8: both must be 1 or more"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(words, says):
    with pytest.raises(UserError, match=says) as error:
        launch.check(place(*words.split()), load())
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPUs")
def test_gpus_that_are_not_there_are_an_error_unless_ranks_on_cpu_are_asked_for(capsys):
    with pytest.raises(UserError, match=r"GPUS=2, but PyTorch sees no GPU on .*--use_cpu true"):
        launch.check(place("--gpus", 2), load())
    launch.check(place("--gpus", 2), load("--use_cpu", "true"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPUs")
def test_65b_is_refused_here_within_20_seconds_with_what_it_needs(tmp_path):
    started = time.monotonic()
    words = [sys.executable, "-m", "lima.train.launch", "--config", "recipes/65b.yaml", "--output_dir", str(tmp_path / "run"),
             "--gpus", "8"]  # fmt: skip
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert time.monotonic() - started < 20
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    error = done.stderr.strip().splitlines()
    assert len(error) == 1 and re.match(r"error: 65b does not fit: 65\.3B parameters need .* GB", error[0])


# ---- real ranks: torchrun's agent, processes, gloo ------------------------------------------------------------------

RANK_SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from lima import UserError, exit_codes
from lima.train import ranks

def main(what, folder):
    ranks.own_log(folder)
    rank = int(os.environ["RANK"])
    print(f"hello from {{rank}}", flush=True)
    import torch, torch.distributed as dist
    dist.init_process_group("gloo")
    for step in range(100):
        if rank == 1 and step == 3:
            if what == "mend": raise UserError("shard-7 is broken; fetch it again")
            if what == "break": raise ValueError("no luck")
            if what == "kill": os.kill(os.getpid(), signal.SIGKILL)
            if what == "memory": raise torch.OutOfMemoryError("CUDA out of memory")
        if what == "all" and step == 3: raise UserError("tokens_per_device is too small")
        if what == "fine" and step == 3: break
        dist.all_reduce(torch.ones(1))
        time.sleep(0.02)
    print(f"bye from {{rank}}", flush=True)

with exit_codes(), ranks.failures_recorded():
    main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks") / "script.py"
    path.write_text(RANK_SCRIPT.format(root=str(ROOT)), encoding="utf-8")
    return path


def start(script, what, folder, gpus=2):
    """`launch.run_node` on the script instead of the trainer."""
    code = (
        "import sys; from types import SimpleNamespace; from lima.train import launch; launch.SCRIPT = sys.argv[1]\n"
        f"where = launch.arguments(['--gpus', '{gpus}'])[0]; where.node_rank = 0\n"
        "sys.exit(launch.run_node(where, SimpleNamespace(output_dir=sys.argv[3]), sys.argv[2:]))"
    )
    words = [sys.executable, "-c", code, str(script), what, str(folder)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("mend", 2, r"rank 1 on \S+: shard-7 is broken; fetch it again; its log: \S+rank-01\.log"),
        ("break", 1, r"rank 1 on \S+: ValueError: no luck; its log: \S+rank-01\.log"),
        ("kill", 1, r"rank 1 on \S+: was killed \(SIGKILL\), perhaps by the kernel.*rank-01\.log"),
        ("memory", 2, r"rank 1 on \S+: rank 1 ran out of GPU memory; .*tokens_per_device"),
        ("all", 2, r"tokens_per_device is too small"),
    ],
)
def test_the_first_error_is_what_the_terminal_shows(what, code, says, script, tmp_path):
    """Once: not the report of the launcher, nor what the other rank says of its lost connection."""
    done = start(script, what, tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stderr
    assert re.match("error: " + says, errors[0]) and (what == "all" or len(errors) == 1)
    assert "Traceback" not in done.stderr


def test_every_rank_has_its_own_log_and_the_first_one_the_terminal_too(script, tmp_path):
    for _ in range(2):  # a second start adds to it
        done = start(script, "fine", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "hello from 0" in done.stdout and "bye from 0" in done.stdout and "from 1" not in done.stdout
    for rank in (0, 1):
        log = (tmp_path / f"logs/rank-{rank:02d}.log").read_text()
        assert log.count(f"hello from {rank}") == log.count(f"bye from {rank}") == log.count(f"· rank {rank} ·") == 2
        assert f"from {1 - rank}" not in log


def test_the_traceback_of_a_rank_is_in_its_log(script, tmp_path):
    start(script, "break", tmp_path)
    assert "ValueError: no luck" in (tmp_path / "logs/rank-01.log").read_text()
    other = (tmp_path / "logs/rank-00.log").read_text()
    assert "all_reduce" in other and "Traceback" in other


def failure(code, at, **word):
    data = {"message": {"extraInfo": {}, "at": at, **word}} if word else {"message": "<NONE>"}
    return SimpleNamespace(
        exitcode=code, timestamp=at, error_file_data=data, signal_name=lambda: signal.Signals(-code).name
    )


def test_the_first_failure_is_no_consequence_of_another():
    lost = failure(1, 1.0, kind="lost", message="lost contact")
    assert launch.first_failure({0: lost, 1: failure(-signal.SIGKILL, 2)})[0] == 1
    assert launch.first_failure({0: failure(-signal.SIGTERM, 1), 1: failure(3, 5)})[1]["message"].endswith("code 3")
    two = {0: failure(1, 7.5, kind="broke", message="a"), 1: failure(2, 7.4, kind="mend", message="b")}
    assert launch.first_failure(two)[0] == 1
    assert launch.first_failure({3: lost})[0] == 3


# ---- Slurm ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path):
    """The commands that the batch script calls, each noting what it was called with."""
    for name, does in {"scontrol": "echo node-a; echo node-b", "srun": "sleep ${NAP:-0} & wait $!"}.items():
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/calls\n{does}\n')
        (tmp_path / name).chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_ID": "77",
    }
    return tmp_path / "calls", env


def test_the_slurm_script_starts_one_task_a_node_and_resumes(slurm):
    calls, env = slurm
    done = subprocess.run(["bash", "launch/slurm.sbatch", "65b"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "exec make sft-65b NODES=$SLURM_NNODES NODE_RANK=$SLURM_NODEID" in calls.read_text()
    assert "requeue" not in calls.read_text()


@pytest.mark.parametrize("told", [signal.SIGUSR1, signal.SIGTERM])
def test_the_slurm_script_goes_back_into_the_queue_when_it_is_told_to_stop(told, slurm):
    calls, env = slurm
    job = subprocess.Popen(
        ["bash", "launch/slurm.sbatch", "65b"], cwd=ROOT, env={**env, "NAP": "20"}, stdout=subprocess.DEVNULL
    )
    while "srun" not in (calls.read_text() if calls.exists() else ""):
        assert job.poll() is None
        time.sleep(0.1)
    time.sleep(0.3)
    job.send_signal(told)
    job.wait(timeout=10)
    assert calls.read_text().splitlines()[-1] == "scontrol requeue 77"


def test_the_slurm_script_wants_a_recipe(slurm):
    done = subprocess.run(["bash", "launch/slurm.sbatch"], cwd=ROOT, env=slurm[1], capture_output=True, text=True)
    assert done.returncode and "name a recipe" in done.stderr
