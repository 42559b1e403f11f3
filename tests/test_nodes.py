"""What nodes tell each other, through a real torchrun store; and two hosts, in network namespaces of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from queue import Empty, Queue

import pytest
from conftest import ROOT, fake_ssh, first_rows, losses
from torch.distributed import TCPStore

from lima.train import nodes

# ---- the watch ------------------------------------------------------------------------------------------------------


@pytest.fixture
def watch(monkeypatch):
    """Makes a `Watch` of two nodes on one store, with short beats; `(watch, queue of causes)`."""
    monkeypatch.setattr(nodes, "BEAT", 0.05)
    monkeypatch.setattr(nodes, "SILENCE", 1.0)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    made = []

    def make(node, **record):
        causes = Queue()
        made.append(nodes.Watch(node, 2, "127.0.0.1", store.port, record or {"the commit": "abc"}, causes.put))
        return made[-1], causes

    yield make
    for one in made:
        one.over = True
    time.sleep(0.2)  # the store outlives its clients


def test_nodes_that_live_and_run_the_same_are_left_alone(watch):
    _, causes = watch(0)
    other, others = watch(1)
    with pytest.raises(Empty):
        causes.get(timeout=1.5)
    assert others.empty() and other.missing() == []


def test_a_node_that_falls_silent_is_named(watch):
    _, causes = watch(0)
    other, _ = watch(1)
    time.sleep(0.5)
    other.over = True
    assert (
        causes.get(timeout=5)
        == f"node 1 ({socket.gethostname()}) has been silent for 1 s: it is down, or cut off from this one"
    )


def test_a_node_that_has_not_come_yet_is_not_silent_but_missing(watch):
    first, causes = watch(0)
    with pytest.raises(Empty):
        causes.get(timeout=1.5)
    assert first.missing() == [1]


def test_the_first_cause_of_a_failure_is_what_every_node_hears(watch):
    first, causes = watch(0)
    other, _ = watch(1)
    assert other.fail("rank 3 on node-b: no luck") == "rank 3 on node-b: no luck"
    assert causes.get(timeout=5) == "rank 3 on node-b: no luck"
    assert first.fail("rank 0 on node-a: lost contact") == "rank 3 on node-b: no luck"
    assert first.first_cause(1) == "rank 3 on node-b: no luck"


def test_nodes_with_other_versions_are_told_which(watch):
    watch(0, **{"the commit": "abc", "trl": "1.16.0"})
    _, causes = watch(1, **{"the commit": "abc", "trl": "1.15.0"})
    here = socket.gethostname()
    assert causes.get(timeout=5) == (
        f"nodes differ: trl is 1.15.0 on node 1 ({here}), 1.16.0 on node 0 ({here}); bring all to the same"
    )


# ---- two hosts ------------------------------------------------------------------------------------------------------

NET = """
ip netns add {a} && ip netns add {b} && ip -n {a} link set lo up && ip -n {b} link set lo up &&
ip link add eth9 netns {a} type veth peer name eth9 netns {b} &&
ip -n {a} addr add 10.77.0.1/24 dev eth9 && ip -n {b} addr add 10.77.0.2/24 dev eth9 &&
ip -n {a} link set eth9 up && ip -n {b} link set eth9 up
"""


@pytest.fixture(scope="module")
def two_hosts():
    """Names of two network namespaces, 10.77.0.1 and 10.77.0.2, with a cable between them."""
    names = [f"lima-{os.getpid()}-{letter}" for letter in "ab"]
    try:
        made = subprocess.run(["sh", "-c", NET.format(a=names[0], b=names[1])], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip().splitlines()[-1]}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture(scope="module")
def words(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    rows = first_rows(folder / "eight.jsonl", 8)
    return (
        f"--model_name_or_path {tiny_base} --dataset {rows} --heldout None --report_to none --use_cpu true "
        "--global_batch_size 4 --tokens_per_device 2048 --eval_on_start false --disable_tqdm true --bf16 false "
        "--residual_dropout 0"
    )


def make(host, target, node, words):
    """`make sft-135m NODES=2 …` on a host, as the README says it."""
    place = ["NODES=2", "GPUS=1", f"NODE_RANK={node}", "MASTER_ADDR=10.77.0.1", f"ARGS={words}"]
    return subprocess.Popen(
        ["ip", "netns", "exec", host, "make", "-o", ".venv/.requirements", f"PY={sys.executable}", target, *place],
        cwd=ROOT, env={**os.environ, "GLOO_SOCKET_IFNAME": "eth9"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_hosts_train_what_one_trains(two_hosts, words, tmp_path):
    steps = f"{words} --max_steps 4"
    both = [make(host, "sft-135m", node, f"{steps} --output_dir {tmp_path}/two") for node, host in enumerate(two_hosts)]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "meet     10.77.0.1:29500 · this is node 0 of 0…1" in said[0][0] and "done · 135m · 4 steps" in said[0][0]
    alone = [sys.executable, "lima_sft.py", "--config", "recipes/135m.yaml", *steps.split()]
    subprocess.run([*alone, "--output_dir", tmp_path / "one"], cwd=ROOT, check=True, capture_output=True, timeout=180)
    assert (
        losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
        and len(losses(tmp_path / "two")) == 4
    )


@pytest.mark.slow
def test_when_the_cable_is_cut_both_hosts_end_within_a_minute_and_say_so(two_hosts, words, tmp_path):
    both = [make(host, "sft-135m", node, f"{words} --max_steps 2000 --save_strategy no --output_dir {tmp_path}/two")
            for node, host in enumerate(two_hosts)]  # fmt: skip
    try:
        until = time.monotonic() + 120
        while len(losses(tmp_path / "two")) < 3:
            assert time.monotonic() < until and both[0].poll() is None
            time.sleep(0.5)
        subprocess.run(["ip", "-n", two_hosts[1], "link", "set", "eth9", "down"], check=True)
        cut = time.monotonic()
        said = [process.communicate(timeout=60)[1] for process in both]
        assert time.monotonic() - cut < 60
    finally:
        for process in both:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        subprocess.run(["ip", "-n", two_hosts[1], "link", "set", "eth9", "up"])
    for node, stderr in enumerate(said):
        errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and f"node {1 - node}" in errors[0] and "silent for 30 s" in errors[0], stderr
    assert all(process.returncode == 2 for process in both)  # make's own code for a target that failed


@pytest.mark.slow
def test_one_host_starts_both_by_ssh(two_hosts, words, tmp_path):
    """`ssh` here enters the host's namespace and runs the command that it was given with a shell, as sshd would."""
    enter = f'case $host in 10.77.0.1) n={two_hosts[0]};; *) n={two_hosts[1]};; esac; exec ip netns exec $n sh -c "$*"'
    path = fake_ssh(tmp_path, enter)
    (tmp_path / "hosts").write_text("10.77.0.1 slots=1\n10.77.0.2 slots=1  # the second\n")
    launch = [
        sys.executable,
        "-m",
        "lima.train.launch",
        "--config",
        "recipes/135m.yaml",
        "--hostfile",
        tmp_path / "hosts",
    ]
    done = subprocess.run(
        [*launch, *words.split(), "--max_steps", "2", "--output_dir", tmp_path / "two"], cwd=ROOT, capture_output=True, text=True,
        timeout=180, env={**os.environ, "GLOO_SOCKET_IFNAME": "eth9", "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "two")) == 2
    assert "this is node 1 of 0…1" in (tmp_path / "two/logs/node-1.log").read_text()
