"""The hostfile's lines, and what happens to the others when one host's launcher ends badly."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import fake_ssh

from lima import UserError
from lima.train import hosts, launch, ranks

FOUR = "127.0.0.1 slots=8\n\n# a comment\n127.0.0.2 slots=8 # the second\n127.0.0.3 slots=8\n127.0.0.4 slots=4\n"


def place(path, text, *words):
    path.write_text(text, encoding="utf-8")
    return launch.arguments(["--hostfile", str(path), *map(str, words)])[0]


def test_hosts_and_slots_are_read(tmp_path):
    where = place(tmp_path / "hosts", FOUR)
    assert hosts.read(where) == ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]
    assert (where.nodes, where.gpus, where.master_addr) == (4, 4, "127.0.0.1")
    where = place(tmp_path / "hosts", FOUR, "--nodes", 2)
    assert hosts.read(where) == ["127.0.0.1", "127.0.0.2"] and (where.nodes, where.gpus) == (2, 8)


@pytest.mark.parametrize(
    ("text", "words", "says"),
    [
        ("127.0.0.1\n", [], r"hosts, line 1: expected `host slots=8`, found '127\.0\.0\.1'"),
        ("127.0.0.1 slots=eight\n", [], r"line 1: expected `host slots=8`"),
        ("127.0.0.1 slots=0\n", [], r"line 1: expected `host slots=8`"),
        ("127.0.0.1 slots=8\n127.0.0.1 slots=8\n", [], r"line 2: 127\.0\.0\.1 stands there twice"),
        (
            "127.0.0.1 slots=8\nno.such.host.invalid slots=8\n",
            [],
            r"hosts, line 2: unknown host no\.such\.host\.invalid",
        ),
        ("# none\n", [], r"names no host"),
        (FOUR, ["--nodes", 5], r"names 4 hosts, NODES=5"),
        (FOUR, ["--gpus", 8], r"127\.0\.0\.4 has 4 slots, GPUS=8"),
    ],
)
def test_a_bad_hostfile_is_one_line(text, words, says, tmp_path):
    with pytest.raises(UserError, match=says) as error:
        hosts.read(place(tmp_path / "hosts", text, *words))
    assert "\n" not in str(error.value)


def test_the_example_reads_but_for_its_made_up_hosts():
    with pytest.raises(UserError, match=r"hostfile\.example, line 3: unknown host node-a"):
        hosts.read(launch.arguments(["--hostfile", "launch/hostfile.example"])[0])


def test_a_host_gets_the_networks_settings_and_no_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0 eth0")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    where = place(tmp_path / "hosts", FOUR, "--nodes", 2)
    hosts.read(where)
    command = hosts.remote(where, 1, ["--config", "r.yaml", "--dataset", "my data.jsonl"])
    assert "secret" not in command
    shown = subprocess.run(
        ["sh", "-c", command.replace(hosts.sys.executable, "printf '%s\\n' $NCCL_SOCKET_IFNAME", 1)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert shown[-4:] == ["--config", "r.yaml", "--dataset", "my data.jsonl"]
    assert shown[shown.index("--node-rank") + 1] == "1" and shown[shown.index("--master-addr") + 1] == "127.0.0.1"


def test_when_one_host_fails_the_others_are_stopped_and_its_error_is_shown(monkeypatch, tmp_path, capfd):
    does = f'if [[ $host == 127.0.0.2 ]]; then echo "error: no base there"; exit 2; fi\necho $$ > {tmp_path}/pid; exec sleep 60'
    monkeypatch.setenv("PATH", fake_ssh(tmp_path, does))
    monkeypatch.setattr(hosts, "GRACE", 0.5)
    where = place(tmp_path / "hosts", FOUR, "--nodes", 2)
    where.hosts = hosts.read(where)
    assert hosts.run_all(where, SimpleNamespace(output_dir=tmp_path / "run"), []) == 2
    said = capfd.readouterr().err
    assert said.strip() == (
        f"error: node 1 (127.0.0.2) ended with exit code 2: no base there; its output: {tmp_path}/run/logs/node-1.log"
    )
    time.sleep(0.5)
    state = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


WAITS = """
import signal, sys, time
from pathlib import Path
here, node = Path.cwd(), sys.argv[sys.argv.index("--node-rank") + 1]
def stop(*_):
    (here / "saved").write_text(node)
    sys.exit(0)
signal.signal(signal.SIGUSR1, stop)
(here / f"waits-{node}").touch()
while not (here / "saved").exists():
    time.sleep(0.05)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_reaches_the_first_host_and_all_end_well(number, code, monkeypatch, tmp_path):
    """In place of our launcher one that only waits: it ends when its own node is told to save, or another has been."""
    (tmp_path / "lima/train").mkdir(parents=True)
    (tmp_path / "lima/train/launch.py").write_text(WAITS)
    monkeypatch.setenv("PATH", fake_ssh(tmp_path, f'exec bash -c "$(sed "s#^cd [^ ]*#cd {tmp_path}#" <<< "$*")"'))
    where = place(tmp_path / "hosts", FOUR, "--nodes", 2)
    where.hosts = hosts.read(where)

    def tell():
        while len(list(tmp_path.glob("waits-*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    before = {each: signal.getsignal(each) for each in ranks.STOP}
    threading.Thread(target=tell, daemon=True).start()
    try:
        assert hosts.run_all(where, SimpleNamespace(output_dir=tmp_path / "run"), ["--config", "r.yaml"]) == code
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert (tmp_path / "saved").read_text() == "0"


def test_the_network_is_described():
    (topic, interfaces), (_, told) = hosts.network()
    assert topic == "network" and "InfiniBand" in interfaces and "NCCL" in told
