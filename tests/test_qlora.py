"""The one-GPU recipes: a 4-bit base with LoRA trains its EOT row, and what it saves generates."""

import pytest
import torch
from conftest import write_llama
from safetensors.torch import load_file
from transformers import AutoTokenizer

import lima_sft
from lima import turns
from lima.evaluate import generate
from lima.train import base


@pytest.fixture(scope="module")
def run(smollm2_tokenizer, tmp_path_factory):
    """Three steps of 7b-qlora on a small untied Llama, in NF4 with double quantisation and paged 8-bit AdamW."""
    folder = tmp_path_factory.mktemp("qlora")
    plain = AutoTokenizer.from_pretrained(smollm2_tokenizer.name_or_path)
    plain.eos_token, plain.chat_template = plain.bos_token, None
    base.prepare(write_llama(folder / "source", plain, layers=2, width=128), folder / "base")
    rows = open("data/starter.jsonl", encoding="utf-8").readlines()[:6]
    (folder / "six.jsonl").write_text("".join(rows), encoding="utf-8")
    words = ["--config", "recipes/7b-qlora.yaml", "--model_name_or_path", folder / "base", "--dataset", folder / "six.jsonl",
             "--exclude_sources", "None", "--output_dir", folder / "run", "--global_batch_size", 4, "--max_steps", 3,
             "--learning_rate", 1e-3, "--eval_on_start", "false", "--report_to", "none"]  # fmt: skip
    lima_sft.main([str(word) for word in words])
    return folder


def test_the_eot_row_moves_in_embeddings_and_head(run):
    saved = load_file(next((run / "run").glob("checkpoint-*")) / "adapter_model.safetensors")
    before = load_file(run / "base/model.safetensors")
    eot = AutoTokenizer.from_pretrained(run / "base").eos_token_id
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        after = saved[f"base_model.model.{name}"].float()
        assert not torch.equal(after[eot], before[name][eot].float().bfloat16().float()), name
    lora = [name for name in saved if "lora_B" in name]
    assert len(lora) == 2 * 7 and all(
        saved[name].abs().max() > 0 for name in lora
    )  # every linear layer, and they learn


def test_what_it_saves_generates_without_more_ado(run):
    model, tokenizer = generate.load_model(run / "run")
    messages = [{"role": "user", "content": "Why does bread rise?"}]
    assert generate.generate(model, tokenizer, [messages], 4, 0)[0][1] in ("eot", "eos", "length")
    assert turns.encode(tokenizer, messages)[0][-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id[0]
