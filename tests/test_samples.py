"""Answers during training: they are the model's greedy ones, they are measured, and they change nothing."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, first_rows
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import lima_sft
from lima import conversations, runs, turns
from lima.train import dropout, samples

PROMPTS = [row["messages"] for row in conversations.load_prompts("data/prompts/dev.jsonl")[:4]]


def greedy(model, tokenizer, messages, new_tokens):
    """By hand: one prompt, no padding, no cache, the likeliest token again and again until a stop."""
    ids, _ = turns.encode(tokenizer, messages)
    out = []
    for _ in range(new_tokens):
        with torch.no_grad():
            token = model(torch.tensor([ids + out])).logits[0, -1].argmax().item()
        if token in model.generation_config.eos_token_id:
            return out, "eot" if token == tokenizer.eos_token_id else "eos"
        out.append(token)
    return out, "length"


@pytest.fixture
def model(tiny_base):
    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), AutoTokenizer.from_pretrained(
        tiny_base
    )


def test_answers_are_greedy_whatever_the_padding(model):
    model, tokenizer = model
    found = samples.answers(model, tokenizer, PROMPTS, 24)
    assert found == [greedy(model, tokenizer, messages, 24) for messages in PROMPTS]
    # then an EOT that comes early in some answers: the token that the first one would have as its sixth
    stop = found[0][0][5]
    weights = model.get_output_embeddings().weight.data
    weights[tokenizer.eos_token_id] = weights[stop] * 1.01
    found = samples.answers(model, tokenizer, PROMPTS, 24)
    assert found == [greedy(model, tokenizer, messages, 24) for messages in PROMPTS]
    assert found[0][1] == "eot" and len(found[0][0]) < 6


def test_modes_and_random_states_stay(model):
    model, tokenizer = model
    plain = samples.answers(model, tokenizer, PROMPTS, 8)
    dropout.add_residual_dropout(model, 0.5)
    model.train()
    model.lm_head.eval()  # whatever was set stays so
    torch.manual_seed(3)
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    assert samples.answers(model, tokenizer, PROMPTS, 8) == plain  # dropout is off
    assert torch.equal(torch.get_rng_state(), before) and [module.training for module in model.modules()] == modes


def test_measures():
    loop = [7, 8, 9, 10] * 4  # 13 4-grams, 4 of them new
    assert samples.repetition(loop) == pytest.approx(9 / 13)
    assert samples.repetition([1, 2, 3]) == samples.repetition([]) == 0.0
    assert samples.repetition([5] * 10) == pytest.approx(6 / 7)
    assert samples.repetition(list(range(50))) == 0.0
    found = [(loop, "length"), ([1, 2, 3, 4], "eot"), ([], "eot"), ([4], "eos")]
    assert samples.measures(found) == {"eot_share": 0.5, "mean_tokens": 5.25, "repetition": round(9 / 13 / 4, 4)}


def train(folder, base, data, *flags):
    words = ["--config", "recipes/135m.yaml", "--model_name_or_path", base, "--output_dir", folder, "--dataset", data,
             "--heldout", "None", "--report_to", "none", "--max_length", 256, "--num_train_epochs", 2, "--global_batch_size", 2,
             "--residual_dropout", 0.3, "--learning_rate", 1e-3, "--disable_tqdm", "true", *flags]  # fmt: skip
    lima_sft.main([str(word) for word in words])
    return runs.newest_checkpoint(folder)


@pytest.mark.slow
def test_training_is_the_same_with_and_without(tiny_base, tmp_path):
    """Bit for bit, with the dropout ramp on and the logging of several steps at once, which TRL gathers."""
    data = first_rows(tmp_path / "six.jsonl", 6)
    flags = ["--logging_steps", 2]
    without = train(tmp_path / "without", tiny_base, data, "--sample_prompts", 0, *flags)
    sampled = train(tmp_path / "with", tiny_base, data, "--sample_prompts", 3, *flags)
    one, other = load_file(without / "model.safetensors"), load_file(sampled / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "without/samples.jsonl").exists()
    numbers = [
        [
            {k: v for k, v in row.items() if k in ("step", "loss", "entropy", "grad_norm")}
            for row in rows
            if "loss" in row
        ]
        for rows in (runs.read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("without", "with"))
    ]
    assert numbers[0] == numbers[1] and len(numbers[0]) > 2
    rows = runs.read_jsonl(tmp_path / "with/samples.jsonl")
    assert [(row["step"], row["epoch"], row["prompt_id"]) for row in rows] == [
        (step, epoch, f"dev-{number:03d}") for step, epoch in ((3, 1.0), (6, 2.0)) for number in (1, 2, 3)
    ]
    assert rows[0].keys() == {"step", "epoch", "prompt_id", "prompt", "response", "finish_reason", "tokens"}
    # those of the last epoch are the answers of the checkpoint that was saved after them
    model = AutoModelForCausalLM.from_pretrained(sampled, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(sampled)
    with torch.autocast("cpu", torch.bfloat16):  # as it was trained
        found = samples.answers(model, tokenizer, PROMPTS[:3])
    assert [row["response"] for row in rows[3:]] == [tokenizer.decode(ids) for ids, _ in found]
    logged = [row for row in runs.read_jsonl(tmp_path / "with/metrics.jsonl") if "samples/eot_share" in row]
    assert [row["step"] for row in logged] == [3, 6]
    said = samples.measures(found)
    assert {name: logged[1][f"samples/{name}"] for name in said} == said and logged[1]["samples/seconds"] > 0
    assert not {"loss", "entropy", "mean_token_accuracy"} & logged[1].keys()


@pytest.mark.slow
@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_two_ranks_train_the_same_with_and_without(config, tiny_base, tmp_path):
    """ZeRO-3 has no whole model on any rank: they generate together."""
    data = first_rows(tmp_path / "six.jsonl", 6)
    for count in (0, 3):
        words = ["--config", "recipes/135m.yaml", "--model_name_or_path", tiny_base, "--dataset", data, "--output_dir",
                 tmp_path / str(count), "--deepspeed", f"ds_configs/{config}.json", "--heldout", "None", "--report_to", "none",
                 "--max_length", 256, "--num_train_epochs", 2, "--global_batch_size", 2, "--residual_dropout", 0.3,
                 "--learning_rate", 1e-3, "--disable_tqdm", "true", "--sample_prompts", count]  # fmt: skip
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "lima_sft.py"]
        done = subprocess.run(
            [*torchrun, *map(str, words)], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, other = (load_file(tmp_path / f"{count}/checkpoint-6/model.safetensors") for count in (0, 3))
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = runs.read_jsonl(tmp_path / "3/samples.jsonl")
    assert [row["step"] for row in rows] == [3, 3, 3, 6, 6, 6]  # the first rank alone writes
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "3/checkpoint-6", dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "3/checkpoint-6")
    found = [tokenizer.decode(ids) for ids, _ in samples.answers(model, tokenizer, PROMPTS[:3])]
    assert [row["response"] for row in rows[3:]] == found
    assert json.loads((tmp_path / "3/metrics.jsonl").read_text().splitlines()[0])["step"] == 1
