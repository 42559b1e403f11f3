"""TRL's ways to train and ours, in turn, on the same model, rows, global batch and steps: `make bench`.

    make bench                            the four arms
    make bench ARGS=--knobs               ours, with one line of the recipe changed at a time
    python -m benchmarks.step [--rounds 3] [--steps 4] [--model embedded|1b|3b|7b] [--shrink 4] [--examples 8]

The rows have the lengths of LIMA's 1,000 (benchmarks/lima_lengths.json), divided by --shrink, and random words. Every arm
is a process of its own; arms alternate, so that a machine that slows down slows all of them; the first step of each is
left out. On CUDA the default model is 1b; 7b trains with 8-bit Adam everywhere. Prints a Markdown table of medians
(min–max).
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = ROOT / "bases/smollm2-135m"
SIZES = {  # random weights; the shapes of Llama 3.2 1B and 3B, and of LLaMA 7B
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 64},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
           "num_key_value_heads": 8, "head_dim": 128},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32, "head_dim": 128},
}  # fmt: skip
PROTOCOL = {
    "learning_rate": 1e-5, "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1e-6, "power": 1.0},
    "adam_beta2": 0.95, "weight_decay": 0.1, "seed": 42, "bf16": True, "logging_steps": 1, "report_to": "none",
    "save_strategy": "no", "disable_tqdm": True,
}  # fmt: skip


def write_rows(path, tokenizer, shrink):
    """LIMA's lengths as conversations of random one-token words, in file order; returns the tokens of each."""
    words = [token[1:] for token in tokenizer.get_vocab() if re.fullmatch(r"Ġ[a-z]{3,}", token)]
    words, draw, lengths = sorted(words), random.Random(0), []
    with path.open("w", encoding="utf-8") as file:
        for total, supervised in json.loads((ROOT / "benchmarks/lima_lengths.json").read_text())["lengths"]:
            total = max(6, total // shrink)
            answer = max(2, min(supervised // shrink, total - 4))
            prompt = total - answer - 2
            texts = [" " + " ".join(draw.choices(words, k=count)) for count in (prompt, answer - 1)]
            roles = zip(("user", "assistant"), texts, strict=True)
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in roles]}) + "\n")
            lengths.append(total)
    return lengths


def model_folder(name, work):
    """The embedded base, or a prepared one of random weights with its tokenizer."""
    from lima.train import base

    if not (EMBEDDED / base.RECORD).exists():
        base.main(["--config", "recipes/quickstart.yaml"])
    if name == "embedded":
        return EMBEDDED
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    config = LlamaConfig(**SIZES[name], vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # 7B takes minutes on a CPU
        LlamaForCausalLM(config).save_pretrained(work / name)
    torch.set_default_dtype(torch.float32)
    tokenizer.save_pretrained(work / name)
    return work / name


def arms(options, model, work):
    """Arm → its command line, after `benchmarks.arm`."""
    longest = 2048 // options.shrink
    big = {"optim": "adamw_8bit", "dtype": "bfloat16"} if options.model == "7b" else {}
    stock = {
        **PROTOCOL, **big, "model_name_or_path": str(model), "dataset_name": str(work / "rows"), "max_length": longest,
        "max_steps": options.steps, "assistant_only_loss": True, **_split(options.examples),
        "output_dir": str(work / "out"), "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip
    mean = statistics.mean(options.lengths)
    packs = max(1, round(options.examples * mean / longest))  # packs that hold as many tokens as the examples of a step
    trl = {
        "trl sft": stock,
        "trl sft, packing": {**stock, "packing": True, **_split(packs)},
        "trl sft, padding_free + batch_rebalance + sdpa": {
            **stock, "padding_free": True, "max_length": None, "train_sampling_strategy": "batch_rebalance",
            "dataloader_drop_last": True, "attn_implementation": "sdpa",
        },
    }  # fmt: skip
    flags = {**our_flags(model, work, options.steps, options.examples, options.budget), **big}
    if options.knobs:
        changed = {
            name: ["ours", *our_words({**flags, **change})]
            for name, change in knobs(flags["tokens_per_device"]).items()
        }
        return {**changed, "without lima/train/malloc.py (CPU)": ["ours-malloc", *our_words(flags)]}
    out = {}
    for number, (name, config) in enumerate(trl.items()):
        file = work / f"{number}.yaml"
        file.write_text(yaml.safe_dump(config))
        out[name] = ["trl", file]
    return {**out, "exact batches (ours)": ["ours", *our_words(flags)]}


def knobs(budget):
    """Lines of the recipe whose worth is measured, one at a time."""
    return {
        "as in the recipe": {},
        "padding_free: false, attn_implementation: sdpa": {"padding_free": False, "attn_implementation": "sdpa"},
        "attn_implementation: sdpa": {"attn_implementation": "sdpa"},
        "gradient_checkpointing: true": {"gradient_checkpointing": True},
        "tokens_per_device × 4": {"tokens_per_device": 4 * budget},
        "optim: adamw_torch": {"optim": "adamw_torch"},
        "bf16: false": {"bf16": False},
    }


def _split(rows):
    """TRL's default of 8 rows at a time, accumulated to `rows`."""
    turns = -(-rows // 8)
    return {"per_device_train_batch_size": rows // turns, "gradient_accumulation_steps": turns}


def our_flags(model, work, steps, examples, budget):
    """The recipe's lines that make ours the same training as the other arms."""
    return {
        **PROTOCOL, "model_name_or_path": model, "dataset": work / "rows/train.jsonl", "heldout": None, "dev_prompts": None,
        "test_prompts": None, "max_steps": steps, "global_batch_size": examples, "tokens_per_device": budget,
        "residual_dropout": 0.0, "eval_on_start": False, "output_dir": work / "ours", "overwrite": True,
    }  # fmt: skip


def our_words(flags):
    """`flags` as the command line of `lima_sft.py`."""
    words = [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}" for key, value in flags.items()]
    return ["--config", "recipes/135m.yaml", *words]


def run(command, log):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.arm", *map(str, command)], cwd=ROOT, capture_output=True, text=True
    )
    log.write_text(done.stdout + done.stderr)
    seen = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("ARM ")]
    if done.returncode or not seen:
        sys.exit(f"{' '.join(map(str, command))}\nfailed: {done.stderr[-2000:]}")
    return seen[0]


def table(results, options):
    """Medians over every timed step of every round, with min–max; ratios of medians to the first arm."""
    first = statistics.median(step for seen in next(iter(results.values())) for step in seen["seconds"][1:])
    memory = max(seen["memory"] for seen in next(iter(results.values())))
    lines = [
        "| arm | s a step, median (min–max) | steps/s against the first | MFU | peak memory, GB | against the first | losses |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, rounds in results.items():
        seconds = [step for seen in rounds for step in seen["seconds"][1:]]
        middle, peak = statistics.median(seconds), max(seen["memory"] for seen in rounds)
        mfu = [share for seen in rounds for share in seen["mfu"][1:]]
        losses = " ".join(f"{loss:.3f}" for loss in rounds[0]["losses"])
        lines.append(
            f"| {name} | {middle:.2f} ({min(seconds):.2f}–{max(seconds):.2f}) | {first / middle:.2f}× | "
            f"{f'{statistics.median(mfu):.0f} %' if mfu else '–'} | {peak / 1e9:.2f} | {peak / memory:.2f}× | {losses} |"
        )
    return "\n".join(lines)


def main():
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20 if cuda else 4)
    parser.add_argument("--model", choices=["embedded", *SIZES], default="1b" if cuda else "embedded")
    parser.add_argument("--shrink", type=int, default=1 if cuda else 4, help="divides every length [%(default)s]")
    parser.add_argument("--examples", type=int, default=32 if cuda else 8, help="a step [%(default)s]")
    parser.add_argument("--budget", type=int, default=4096 if cuda else 512, help="our tokens_per_device [%(default)s]")
    parser.add_argument("--knobs", action="store_true", help="ours with one line of the recipe changed at a time")
    parser.add_argument("--only", default="", help="arms whose name has this regular expression")
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU cores"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "rows").mkdir()
        model = model_folder(options.model, work)
        options.lengths = write_rows(work / "rows/train.jsonl", AutoTokenizer.from_pretrained(model), options.shrink)
        commands = {name: words for name, words in arms(options, model, work).items() if re.search(options.only, name)}
        print(
            f"{options.model} on {device} · {options.examples} examples a step, LIMA's lengths ÷ {options.shrink} · "
            f"{options.steps} steps, the first left out · {options.rounds} rounds, arms in turn",
            flush=True,
        )
        results = {name: [] for name in commands}
        for number in range(options.rounds):
            for name, words in commands.items():
                results[name].append(run(words, work / "log"))
                seconds = statistics.median(results[name][-1]["seconds"][1:])
                print(f"  round {number + 1}  {seconds:7.2f} s a step  {name}", flush=True)
        print("\n" + table(results, options))


if __name__ == "__main__":
    main()
