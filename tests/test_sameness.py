"""Exact batches are plain training, only faster: against a loop in plain PyTorch, in fp32, however the work is shared."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, distance
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import lima_sft
from lima import conversations, turns

SIZE, EPOCHS, RATE, SEED = 4, 2, 0.3, 42
PLAIN = ["--bf16", "false", "--report_to", "none", "--eval_on_start", "false", "--heldout", "None", "--optim", "sgd",
         "--learning_rate", RATE, "--lr_scheduler_type", "constant", "--lr_scheduler_kwargs", "{}", "--weight_decay", 0,
         "--max_grad_norm", 0, "--num_train_epochs", EPOCHS, "--global_batch_size", SIZE, "--residual_dropout", 0,
         "--save_strategy", "steps", "--save_steps", 1, "--keep_epochs", "all", "--seed", SEED,
         "--disable_tqdm", "true"]  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Nine rows at four a step: the last batch of an epoch holds one. Row 3 is far beyond 2,048 tokens."""
    rows = [json.loads(line) for line in open(ROOT / "data/starter.jsonl", encoding="utf-8")][:9]
    rows[3]["messages"][-1]["content"] *= 20
    path = tmp_path_factory.mktemp("data") / "nine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def by_hand(tiny_base, dataset):
    """Plain PyTorch in fp64: one example at a time, nothing padded, the mean over all tokens in the loss of the global batch.

    Returns the losses, the gradients' norms and the weights after every step.
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float64, attn_implementation="eager")
    rows = turns.encode_all(tokenizer, conversations.load(dataset).rows, 2048).rows
    assert max(len(row["input_ids"]) for row in rows) == 2048
    losses, norms, weights = [], [], []
    for epoch in range(EPOCHS):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED + epoch)).tolist()
        for start in range(0, len(order), SIZE):
            batch = [rows[i] for i in order[start : start + SIZE]]
            count = sum(label != -100 for row in batch for label in row["labels"][1:])
            model.zero_grad()
            losses.append(0.0)
            for row in batch:
                logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
                loss = F.cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="sum") / count
                loss.backward()
                losses[-1] += loss.item()
            norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= RATE * parameter.grad
            weights.append({name: tensor.float() for name, tensor in model.state_dict().items()})
    return losses, norms, weights


def words(base, dataset, out, *flags):
    words = ["--config", "recipes/135m.yaml", "--model_name_or_path", base, "--dataset", dataset, "--output_dir", out]
    return [str(word) for word in [*words, *PLAIN, *flags]]


def train(processes, *words):
    """In this process, or as `torchrun` starts several: gloo between them."""
    if processes == 1:
        return lima_sft.main(list(words))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run([*torchrun, "lima_sft.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def trained(run, step=6):
    return load_file(run / f"checkpoint-{step}/model.safetensors")


WAYS = {
    "one process": (1, ["--tokens_per_device", 8192]),
    "several micro-batches": (1, ["--tokens_per_device", 2048]),
    "gradient checkpointing": (1, ["--tokens_per_device", 8192, "--gradient_checkpointing", "true"]),
    "padded, with sdpa": (1, ["--tokens_per_device", 2560, "--padding_free", "false", "--attn_implementation", "sdpa"]),
    "two processes": (2, ["--tokens_per_device", 4096]),
    "two processes, several micro-batches, ZeRO-3": (
        2,
        ["--tokens_per_device", 2048, "--deepspeed", "ds_configs/zero3_cpu.json"],
    ),
}
SLOW = ("one process", "two processes", "gradient checkpointing", "padded, with sdpa")


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] * (way in SLOW)) for way in WAYS])
def test_losses_gradients_and_weights_are_those_of_plain_pytorch(way, by_hand, tiny_base, dataset, tmp_path):
    processes, flags = WAYS[way]
    train(processes, *words(tiny_base, dataset, tmp_path, *flags))
    losses, norms, weights = by_hand
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in logged if "loss" in row]
    assert [row["loss"] for row in logged] == pytest.approx(losses, rel=1e-5)
    assert [row["grad_norm"] for row in logged] == pytest.approx(norms, rel=1e-3)  # fp32 norms are off by up to 5e-4
    start = load_file(tiny_base / "model.safetensors")
    for step in range(1, 7):  # after step 1 it is the gradient itself; steps 3 and 6 are an epoch's partial batch
        ours = trained(tmp_path, step)
        assert distance(ours, {name: weights[step - 1][name] for name in ours}, start) < 1e-5
    assert distance(start, {name: weights[-1][name] for name in start}, start) == 1  # the measure can fail


@pytest.mark.slow
def test_the_ramp_under_zero3_is_that_of_plain_data_parallel(by_hand, tiny_base, dataset, tmp_path):
    """Same seed, same ranks, same examples: the same masks, so the same weights; without dropout, others."""
    ramp = ["--residual_dropout", 0.3, "--tokens_per_device", 2560]
    train(2, *words(tiny_base, dataset, tmp_path / "ddp", *ramp))
    train(2, *words(tiny_base, dataset, tmp_path / "zero3", *ramp, "--deepspeed", "ds_configs/zero3_cpu.json"))
    ddp, zero3 = trained(tmp_path / "ddp"), trained(tmp_path / "zero3")
    start = load_file(tiny_base / "model.safetensors")
    assert distance(zero3, ddp, start) < 1e-5
    assert distance(by_hand[2][-1], ddp, start) > 0.01
    assert set(zero3) == set(start)  # and nothing of it is saved
