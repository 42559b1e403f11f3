"""Runs at Weights & Biases, by its own client over real sockets: what they carry, what they must not, and what fails there."""

import contextlib
import getpass
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
import yaml
from conftest import ROOT, first_rows
from servers.wandb import Wandb
from transformers import TrainerState

import lima_sft
from lima import UserError, runs
from lima.train import sync, tracking, wandb_run, wandb_session

RECORD = {"config": "recipes/7b.yaml", "recipe": {"run_name": "seven", "keep_epochs": "none", "learning_rate": 1e-5}, "dataset": {
    "name": "GAIR/lima", "revision": None, "fingerprint": "0123456789abcdef", "rows": 3}}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with a name that can be looked for."""
    folder = tmp_path / "home/alice-liddell"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def server(monkeypatch, home):
    wandb.teardown()  # what earlier tests made it remember
    for name in ("WANDB_DATA_DIR", "WANDB_SILENT", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "false" if name.endswith("REPORTING") else "true")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "3")
    with Wandb() as server:
        server.use(monkeypatch)
        monkeypatch.delenv("WANDB_MODE")  # as a user has it: online where there is a key
        yield server
        server.slow = 0
    wandb.teardown()


@pytest.fixture
def run_dir(home):
    folder = home / "runs/seven"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECORD))
    return folder


def start(folder, resumed=False, **about):
    recipe = {"report_to": ["wandb"], "keep_epochs": "1", "output_dir": str(folder)}
    return wandb_run.start(SimpleNamespace(**{**recipe, **about}), RECORD, resumed)


def log(run, folder, first, last):
    """What the Trainer and `Metrics` do in the steps `first` to `last`: a row to metrics.jsonl, and one to W&B."""
    for step in range(first, last + 1):
        row = {"loss": 100.0 + step, "epoch": step / 4}
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        if run:
            run.on_step_begin(None, None, None)
            run.on_log(None, TrainerState(global_step=step), None, logs=row)


def steps(server):
    """`[(step, loss), …]` of the only run that the server has."""
    (run,) = server.runs.values()
    return [(row["_step"], row["train/loss"]) for row in run.history if "train/loss" in row]


def expected(last):
    return [(step, 100.0 + step) for step in range(1, last + 1)]


# ---- a whole training -------------------------------------------------------------------------------------------------


def train(folder, tiny_base, home, *flags):
    words = ["--config", "recipes/135m.yaml", "--model_name_or_path", tiny_base, "--output_dir", folder, "--dataset",
             first_rows(home / "six.jsonl", 6), "--heldout", home / "six.jsonl", "--bf16", "false", "--max_length", 256,
             "--over_length", "trim", "--num_train_epochs", 2, "--global_batch_size", 2, "--keep_epochs", 1,
             "--sample_prompts", 2, "--disable_tqdm", "true", "--dataloader_pin_memory", "false", *flags]  # fmt: skip
    lima_sft.main([str(word) for word in words])


@pytest.fixture
def trained(server, tiny_base, home):
    folder = home / "runs/tiny"
    train(folder, tiny_base, home)
    return folder


def test_wandb_has_what_the_run_has_and_nothing_of_the_machine(server, trained, home):
    (run,) = server.runs.values()
    said = {"displayName": "135m", "groupName": "135m", "jobType": "sft", "tags": ["135m", "six"]}
    assert {key: run.fields[key] for key in said} == said
    assert run.state == "finished" and not server.unknown
    assert (
        run.fields == {**run.fields, **said, "program": "lima_sft.py"} and len(run.fields) == 5
    )  # no host, no repository

    # numbers: those of metrics.jsonl, a row a step
    kept = {}
    for row in runs.read_jsonl(trained / "metrics.jsonl"):
        step = row.pop("step")
        kept.setdefault(step, {}).update({wandb_run.named(k): v for k, v in row.items() if "train_runtime" not in row})
    sent = {row["_step"]: {k: v for k, v in row.items() if k[0] != "_" and k != "samples"} for row in run.history}
    assert len(run.history) == len(sent) == 7  # step 0 has the held-out loss before training
    for step, row in kept.items():
        assert sent[step] == pytest.approx({**row, "train/global_step": step}, rel=1e-12)
    assert {"train/loss", "train/tokens_per_second", "eval/loss", "samples/eot_share"} <= sent[6].keys()
    assert run.summary["train_loss"] == runs.read_jsonl(trained / "metrics.jsonl")[-1]["train_loss"]

    # what made them: the record, with ~ for home
    record = yaml.safe_load((trained / "recipe.yaml").read_text())
    assert {k: v["value"] for k, v in run.config.items() if k != "_wandb"} == wandb_session.private(record)
    assert record["hardware"]["cpus"] and record["dataset"]["rows"] == 6
    assert run.config["recipe"]["value"]["dataset"] == "~/six.jsonl"

    # the answers: those of samples.jsonl
    table = json.loads(run.files[next(row["samples"]["path"] for row in run.history if row["_step"] == 6)])
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert rows == [row for row in runs.read_jsonl(trained / "samples.jsonl") if row["step"] == 6]

    # dataset and checkpoints: by digest; no weights leave
    kinds = {
        (a.type, *sorted(set(a.aliases) - {"latest"})): a.entries
        for a in server.artifacts.values()
        if a.type != "run_table"
    }
    assert sorted(kinds) == [("dataset",), ("model", "epoch-1", "step-3"), ("model", "epoch-2", "step-6")]
    for artifact in server.artifacts.values():
        if artifact.type == "model":
            folder = trained / f"checkpoint-{artifact.metadata['step']}"
            entry = artifact.entries["model.safetensors"]
            digest = runs.sha256(folder / "model.safetensors")
            assert entry["digest"] == entry["ref"] == f"lima:tiny/{folder.name}/model.safetensors?sha256={digest}"
            assert "optimizer.pt" not in artifact.entries
        if artifact.type == "dataset":
            assert artifact.entries["six.jsonl"]["ref"].endswith(runs.sha256(home / "six.jsonl"))
    assert {a.metadata["step"] for a in server.artifacts.values() if a.type == "model"} == {3, 6}
    assert max(len(body) for _, _, body in server.received) < 100_000

    # no key, home, path, name or address of this machine, neither sent nor on disk
    assert json.loads((trained / "wandb.json").read_text())["url"] == f"{server.url}/tester/lima/runs/{run.name}"
    forbidden = [server.key, "alice-liddell", socket.gethostname(), str(ROOT), str(Path(sys.prefix))]
    forbidden += [getpass.getuser()] if len(getpass.getuser()) > 4 else []
    everything = [body for _, _, body in server.received]
    everything += [path.read_bytes() for path in trained.rglob("wandb/**/*") if path.is_file()]
    everything += [(trained / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl", "wandb.json")]
    for word in filter(lambda word: len(word) > 3, forbidden):
        assert not [content for content in everything if word.encode() in content], word


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_nothing_of_the_repository_or_the_program_is_sent(mode, server, run_dir, home, monkeypatch):
    """Started in a checkout whose remote holds a password, by a program with a secret among its words."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", [str(home / "secret-script.py"), "--token=secret-word"])
    for words in ("init -q", "remote add origin https://alice:secret-remote@127.0.0.1/alice.git",
                  "-c user.name=a -c user.email=secret@mail commit -q --allow-empty -m secret-message"):  # fmt: skip
        subprocess.run(["git", *words.split()], check=True)
    if mode == "offline":
        monkeypatch.setenv("WANDB_MODE", "offline")
    run = start(run_dir)
    log(run, run_dir, 1, 2)
    run.finish()
    wandb.teardown()  # until then its log may not be whole
    everything = [body for _, _, body in server.received]
    everything += [path.read_bytes() for path in run_dir.rglob("wandb/**/*") if path.is_file()]
    assert any(b"train/loss" in content for content in everything)
    for word in (b"secret", b"alice", sys.executable.encode(), b"x86_64-with", b"torch=="):
        assert not [content for content in everything if word in content], word


@pytest.mark.slow
def test_a_resumed_training_goes_on_as_the_same_run(server, tiny_base, home):
    """Killed in its fifth step, then resumed: every step once in metrics.jsonl and at W&B, with the numbers of a run
    that nothing happened to."""
    folder = home / "runs/tiny"
    script = home / "killed.py"
    script.write_text(f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
import test_wandb
from lima.train import tracking
class Dies(tracking.Metrics):
    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step == 6:
            os.kill(os.getpid(), 9)
tracking.Metrics = Dies
test_wandb.train(Path({str(folder)!r}), {str(tiny_base)!r}, Path({str(home)!r}))
""")
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == -9, done.stderr[-2000:]
    assert [row["step"] for row in runs.read_jsonl(folder / "metrics.jsonl") if "loss" in row] == [1, 2, 3, 4, 5]
    train(folder, tiny_base, home, "--resume", "auto")
    train(home / "runs/whole", tiny_base, home, "--report_to", "none")
    (run,) = server.runs.values()
    assert run.starts > 1 and run.state == "finished"
    sent = {row["_step"]: row for row in run.history}
    assert list(sent) == [row["_step"] for row in run.history] == list(range(7))
    for name in ("tiny", "whole"):
        rows = runs.read_jsonl(home / "runs" / name / "metrics.jsonl")
        for key in ("loss", "eval_loss", "samples/mean_tokens"):
            numbers = {row["step"]: row[key] for row in rows if key in row}
            assert len(numbers) == sum(key in row for row in rows)
            assert numbers == {s: row[wandb_run.named(key)] for s, row in sent.items() if wandb_run.named(key) in row}
    samples = [home / "runs" / name / "samples.jsonl" for name in ("tiny", "whole")]
    assert runs.read_jsonl(samples[0]) == runs.read_jsonl(samples[1])


# ---- what fails at W&B -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda server, env: server.stop(), "connection refused"),
        (lambda server, env: setattr(server, "slow", 30), "deadline exceeded|timed? ?out"),
        (lambda server, env: env.setenv("WANDB_API_KEY", "f" * 40), "401"),
        (lambda server, env: env.setenv("WANDB_API_KEY", "short"), "API key must have 40"),
    ],
)
def test_without_wandb_at_the_start_a_run_is_logged_offline_and_sent_later(
    fault, message, server, run_dir, monkeypatch, capsys
):
    key, began = server.key, time.time()
    fault(server, monkeypatch)
    run = start(run_dir)
    log(run, run_dir, 1, 5)
    run.finish()
    assert time.time() - began < 30
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: W&B")]
    assert len(said) == 1 and re.search(message, said[0])
    assert not server.runs
    server.slow = 0
    if server.stopped:
        server.start()
    monkeypatch.setenv("WANDB_API_KEY", key)
    wandb.teardown()
    assert sync.send(run_dir).startswith("sent · http")
    assert steps(server) == expected(5)
    assert sync.send(run_dir).startswith("sent already")


@pytest.mark.parametrize(
    "fault",
    [
        lambda server: server.stop(),
        lambda server: setattr(server, "broken", True),
        lambda server: setattr(server, "slow", 30),
        lambda server: setattr(server, "key", "revoked"),
    ],
)
def test_a_run_whose_server_fails_ends_in_time_and_what_lacks_is_sent_later(fault, server, run_dir, capsys):
    key = server.key
    run = start(run_dir)
    log(run, run_dir, 1, 3)
    fault(server)
    began = time.time()
    log(run, run_dir, 4, 8)
    assert time.time() - began < 1  # nobody waits for a server while training
    run.finish()
    assert time.time() - began < 10
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: W&B")]
    assert len(said) == 1 and f"`make sync RUN={run_dir}` sends the rest" in said[0]
    wandb.teardown()
    server.key, server.slow, server.broken = key, 0, False
    if server.stopped:
        server.start()
    sync.send(run_dir)
    assert steps(server) == expected(8)
    assert sync.send(run_dir).startswith("sent already")


def test_a_connection_that_comes_back_costs_nothing(server, run_dir, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "30")
    run = start(run_dir)
    log(run, run_dir, 1, 3)
    server.stop()
    log(run, run_dir, 4, 6)
    server.start()
    log(run, run_dir, 7, 8)
    run.finish()
    assert steps(server) == expected(8) and sync.send(run_dir).startswith("sent already")
    assert "note: W&B" not in capsys.readouterr().err


def test_a_run_that_wandb_has_half_of_gets_the_rest_once(server, run_dir, monkeypatch):
    """Online, then offline (the key was gone), then sent: W&B's own sync would have added the first steps again."""
    run = start(run_dir)
    log(run, run_dir, 1, 3)
    run.finish()
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = start(run_dir, resumed=True)
    tracking.trim(run_dir / "metrics.jsonl", 2)
    run.on_train_begin(None, None, None)
    log(run, run_dir, 3, 6)
    run.finish()
    assert steps(server) == expected(3)
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE")
    assert sync.send(run_dir).startswith("sent 3 rows")
    assert steps(server) == expected(6)
    assert sync.send(run_dir).startswith("sent already")


def test_an_offline_run_that_was_resumed_offline_is_sent_whole(server, run_dir, monkeypatch):
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = start(run_dir)
    log(run, run_dir, 1, 5)
    run.finish(1)
    time.sleep(1.1)  # W&B names the parts of a run by the second
    run = start(run_dir, resumed=True)
    tracking.trim(run_dir / "metrics.jsonl", 3)
    run.on_train_begin(None, None, None)
    log(run, run_dir, 4, 8)
    run.finish()
    assert len(list(run_dir.glob("wandb/offline-run-*"))) == 2
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE")
    assert sync.send(run_dir).startswith("sent · http")
    assert steps(server) == expected(8)


def test_a_run_that_starts_anew_is_another_run(server, run_dir):
    ids = set()
    for _ in range(2):
        run = start(run_dir)
        ids.add(wandb_session.identity(run_dir)["id"])
        run.finish()
    assert len(ids) == len(server.runs) == 2


def test_wandb_that_dies_amid_a_run_costs_nothing(server, run_dir, capsys):
    run = start(run_dir)
    log(run, run_dir, 1, 2)
    os.kill(int(re.search(r"wandb-core.*?(\d+)", _children("wandb-core"))[1]), 9)
    time.sleep(0.5)
    log(run, run_dir, 3, 6)
    run.finish()
    assert capsys.readouterr().err.count("note: W&B") in (1, 2)
    with contextlib.suppress(ConnectionError):
        wandb.teardown()
    wandb.sdk.lib.module.unset_globals()  # of the run that could not be ended
    sync.send(run_dir)
    assert steps(server) == expected(6)


def _children(name):
    out = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "comm,pid"], capture_output=True, text=True).stdout
    return next(line for line in out.splitlines() if name in line)


def test_a_folder_that_wandb_cannot_write_to_costs_nothing(server, run_dir, capsys):
    (run_dir / "wandb").write_text("in the way")
    assert start(run_dir) is None
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: W&B")]
    assert "off (" in said[-1] and "every number" in said[-1] and len(said) == 2


def test_a_full_disk_of_wandb_costs_nothing(server, run_dir, capsys):
    """The folder `wandb` alone lies on a disk of 1 MB, which tables fill."""
    (run_dir / "wandb").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "lima", run_dir / "wandb"], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        run = start(run_dir)
        log(run, run_dir, 1, 2)
        with (run_dir / "wandb/ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        answers = [{"step": 3, "epoch": 1.0, "prompt_id": "a", "prompt": "x" * 9999, "response": "y" * 9999,
                    "finish_reason": "eot", "tokens": 3}]  # fmt: skip
        runs.write_jsonl(run_dir / "samples.jsonl", answers)
        run.on_log(None, TrainerState(global_step=3), None, logs={"samples/eot_share": 1.0, "epoch": 1.0})
        log(run, run_dir, 4, 6)
        run.finish()
        assert "No space left" in capsys.readouterr().err
        assert [row["step"] for row in runs.read_jsonl(run_dir / "metrics.jsonl")] == [1, 2, 4, 5, 6]
    finally:
        wandb.teardown()
        subprocess.run(["umount", "-l", run_dir / "wandb"], check=True)


# ---- make sync ---------------------------------------------------------------------------------------------------------


def test_sync_says_what_it_cannot_do(server, run_dir, monkeypatch):
    with pytest.raises(UserError, match=r"no wandb.json there, so W&B logged nothing of it"):
        sync.main(["--run", str(run_dir)])
    monkeypatch.chdir(run_dir)
    with pytest.raises(UserError, match=r"no run with a wandb.json"):
        sync.main([])
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = start(run_dir)
    assert sync.send(run_dir).startswith("is running")
    log(run, run_dir, 1, 2)
    run.finish()
    with pytest.raises(UserError, match=r"no W&B key, or WANDB_MODE says offline"):
        sync.main(["--run", str(run_dir)])
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    with pytest.raises(UserError, match=r"W&B does not answer: .*not logged in"):
        sync.main(["--run", str(run_dir)])


def test_sync_sends_every_run_in_runs(server, run_dir, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("seven", "eight"):
        Path(f"runs/{name}").mkdir(exist_ok=True)
        run = start(Path(f"runs/{name}"))
        log(run, Path(f"runs/{name}"), 1, 2)
        run.finish()
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE")
    sync.main([])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said] == [["runs/eight", "sent"], ["runs/seven", "sent"]]
    assert len(server.runs) == 2


def test_sync_adds_what_was_measured_of_the_answers(server, home, monkeypatch, capsys):
    """The numbers of generations/*.json, once, in the summary of the run that W&B has."""
    monkeypatch.chdir(home)
    folder = Path("runs/seven")
    folder.mkdir(parents=True)
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = start(folder)
    log(run, folder, 1, 2)
    run.finish()
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE")
    kept = {
        "test": {
            "checkpoint-2": {"epoch": 2.0, "step": 2, "eot_share": 0.75, "repeat": {"longest": 7, "prompt_id": "p1"}}
        }
    }
    runs.write_text(folder / "generations/signals.json", json.dumps(kept))
    sync.main([])
    assert capsys.readouterr().out.strip().endswith(" · 2 figures of its answers")
    (read,) = wandb.Api().runs("tester/lima", filters={"group": "7b"})
    assert read.summary["answers/test/epoch-2/eot_share"] == 0.75
    assert read.summary["answers/test/epoch-2/repeat/longest"] == 7 and read.summary["train/loss"] == 102.0
    sync.main([])
    assert "figures" not in capsys.readouterr().out
    assert not server.unknown


# ---- the loopback server, as compare and others read it ----------------------------------------------------------------


def test_the_server_answers_wandbs_own_reader(server, run_dir):
    run = start(run_dir)
    log(run, run_dir, 1, 4)
    run.finish()
    api = wandb.Api()
    assert len(api.runs("tester/lima", filters={"group": "none"})) == 0
    (read,) = api.runs("tester/lima", filters={"group": "7b"})
    assert (read.name, read.group, read.state, read.config["recipe"]) == ("seven", "7b", "finished", RECORD["recipe"])
    assert [(row["_step"], row["train/loss"]) for row in read.scan_history()] == expected(4)
    assert [row["train/loss"] for row in read.scan_history(keys=["train/loss"])] == [loss for _, loss in expected(4)]
    assert read.summary["train/loss"] == 104.0 and read.lastHistoryStep == 4
    assert "config.yaml" in [file.name for file in read.files()]
    assert not server.unknown
