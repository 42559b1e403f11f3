"""Told to stop, on real processes and real signals: a checkpoint to go on from, and in the end the same weights, bit for bit."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, first_rows
from safetensors.torch import load_file

from lima import runs

STEPS = 16
FLAGS = ["--bf16", "false", "--report_to", "none", "--eval_on_start", "false", "--heldout", "None", "--global_batch_size", 4,
         "--max_length", 160, "--tokens_per_device", 320, "--residual_dropout", 0.3, "--learning_rate", 1e-3,
         "--num_train_epochs", STEPS // 2, "--keep_epochs", "none", "--save_strategy", "steps", "--save_steps", 6,
         "--sample_prompts", 0, "--disable_tqdm", "true"]  # fmt: skip


def words(base, data, out, *flags):
    first = ["lima_sft.py", "--config", "recipes/135m.yaml", "--model_name_or_path", base, "--dataset", data]
    return [str(word) for word in [*first, "--output_dir", out, *FLAGS, *flags]]


def start(*words):
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process):
    """`(exit code, what it printed)`."""
    said, _ = process.communicate(timeout=200)
    return process.returncode, said


def at_step(run, step, process):
    """Waits until the run has logged a step."""
    path, until = run / "metrics.jsonl", time.monotonic() + 150
    while not path.exists() or sum('"loss"' in line for line in path.read_text().splitlines()) < step:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return first_rows(tmp_path_factory.mktemp("data") / "eight.jsonl", 8)


@pytest.fixture(scope="module")
def whole(tiny_base, data, tmp_path_factory):
    """The weights at the end of a run that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole")
    code, said = ended(start(*words(tiny_base, data, run)))
    assert code == 0, said
    return load_file(run / f"checkpoint-{STEPS}/model.safetensors")


def assert_resumes_to(whole, command, run, stopped):
    code, said = ended(start(*command, "--resume", "auto"))
    assert code == 0 and f"from {run}/checkpoint-{stopped}" in " ".join(said.split()).replace("- ", "-"), said
    weights = load_file(run / f"checkpoint-{STEPS}/model.safetensors")
    assert all(torch.equal(whole[name], weights[name]) for name in whole)
    rows = [row["step"] for row in runs.read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert rows == list(range(1, STEPS + 1))  # every step once


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.slow
def test_a_signal_ends_the_run_after_a_step_with_a_checkpoint(number, code, whole, tiny_base, data, tmp_path):
    command = words(tiny_base, data, tmp_path)
    process = start(*command)
    at_step(tmp_path, 3, process)
    process.send_signal(number)
    got, said = ended(process)
    assert got == code and f"{number.name}: saving at the end of this step" in said and "--resume auto" in said, said
    (checkpoint,) = runs.checkpoints(tmp_path)
    stopped = runs.marker(checkpoint)["step"]
    assert 3 <= stopped < STEPS and not (tmp_path / "saving").exists()
    assert_resumes_to(whole, command, tmp_path, stopped)


def test_a_second_ctrl_c_stops_at_once(tiny_base, data, tmp_path):
    process = start(*words(tiny_base, data, tmp_path, "--global_batch_size", 8, "--save_strategy", "no"))
    at_step(tmp_path, 1, process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    code, said = ended(process)
    assert code == 130 and "stopped by Ctrl-C" in said and "stopped   by" not in said, said


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["a rank", "the launcher"])
def test_two_ranks_stop_together_whoever_is_told(whom, tiny_base, data, tmp_path):
    def command(run):
        return ["-m", "lima.train.launch", "--gpus", "2", *words(tiny_base, data, run, "--use_cpu", "true")[1:]]

    code, said = ended(start(*command(tmp_path / "whole")))
    assert code == 0, said
    run = tmp_path / "cut"
    process = start(*command(run))
    at_step(run, 3, process)
    second = int(re.findall(r"process (\d+)", (run / "logs/rank-01.log").read_text())[-1])
    os.kill(second if whom == "a rank" else process.pid, signal.SIGTERM)
    code, said = ended(process)
    assert code == 0, said
    stopped = runs.marker(runs.checkpoints(run)[-1])["step"]
    assert 3 <= stopped < STEPS
    weights = load_file(tmp_path / f"whole/checkpoint-{STEPS}/model.safetensors")
    assert_resumes_to(weights, command(run), run, stopped)
