"""The plan's peak memory beside the measured one, on one CUDA GPU.

    python -m benchmarks.memory                                  what of 1B, 3B and 7B the plan says will fit
    python -m benchmarks.memory --sizes 1b --only QLoRA          one shape, one setting
    python -m benchmarks.memory --tokens 2048 --steps 3 --out runs/bench-memory

Llamas of random weights (the shapes of `benchmarks/step.py`) train a few steps through `lima.train.launch` and
`lima_sft.py`, as `make sft-NAME` would, each in a process of its own, where `torch.cuda.max_memory_allocated` counts from
zero; the run's metrics.jsonl has it. Every micro-batch is full and every token in the loss, which is what the plan assumes.
Prints what it will run, then a Markdown table. Rows that stand are kept in OUT/rows.jsonl, so that a second call goes on;
those of another commit, GPU or setting are measured again. Exit code 0 if every row lies within 10 %, 1 if not, 2 without a
CUDA GPU.
"""

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from lima import UserError, exit_codes, runs

ROOT = Path(__file__).resolve().parents[1]
WITHIN = 0.10  # of what is measured
LENGTH = 2048  # tokens of every example
SETTINGS = {  # recipe, and what is changed in it; each with layers kept for backward, and recomputed
    "AdamW, fp32 weights": ("7b", {"deepspeed": None}),
    "ZeRO-3, 8-bit Adam": ("7b-1gpu", {}),
    "QLoRA": ("7b-qlora", {}),
}
KEY = ("shape", "setting", "tokens", "steps", "device", "commit")


def arguments(argv):
    from benchmarks.step import SIZES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1b,3b,7b", help="shapes, with commas between [%(default)s]")
    parser.add_argument("--only", default="", help="settings whose name has this regular expression")
    parser.add_argument(
        "--tokens", type=int, default=4096, help=f"a micro-batch, in examples of {LENGTH} [%(default)s]"
    )
    parser.add_argument("--steps", type=int, default=3, help="of two micro-batches each [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-memory"), help="keeps rows and logs [%(default)s]")
    options = parser.parse_args(argv)
    options.sizes = options.sizes.split(",")
    unknown = [size for size in options.sizes if size not in SIZES]
    if unknown:
        raise UserError(f"--sizes {unknown[0]}: expected some of {','.join(SIZES)}")
    if options.tokens < LENGTH or options.tokens % LENGTH or options.steps < 1:
        raise UserError(f"--tokens must be a multiple of {LENGTH}, and --steps 1 or more")
    return options


def cases(options, here):
    """A row for every shape and setting asked for: KEY's fields, `predicted` bytes, whether it `fits`, and its `words`."""
    from transformers import AutoTokenizer, LlamaConfig

    from benchmarks.step import SIZES, model_folder
    from lima import recipe
    from lima.train import memory

    vocabulary = len(AutoTokenizer.from_pretrained(model_folder("embedded", None)))
    common = {"tokens": options.tokens, "steps": options.steps, "device": here.gpu, "commit": runs.git_commit()}
    out = []
    for shape in options.sizes:
        config = LlamaConfig(**SIZES[shape], vocab_size=vocabulary)
        for name, (recipe_name, changes) in SETTINGS.items():
            for recomputed in (False, True):
                setting = f"{name}, layers {'recomputed' if recomputed else 'kept'}"
                flags = {**training(options), **changes, "gradient_checkpointing": recomputed}
                words = ["--config", f"recipes/{recipe_name}.yaml", *[f"--{key}={flag}" for key, flag in flags.items()]]
                if not re.search(options.only, setting):
                    continue
                need = memory.needed(recipe.load(words), config, here.ranks, bool(here.gpu))
                row = {"shape": shape, "setting": setting, **common, "predicted": need.peak}
                out.append({**row, "fits": memory.fits(need, here), "words": words})
    return out


def training(options):
    """The lines of a recipe that make its micro-batches full and a run short."""
    return {
        "max_length": LENGTH, "tokens_per_device": options.tokens, "global_batch_size": 2 * options.tokens // LENGTH,
        "loss_on": "all", "max_steps": options.steps, "save_strategy": "no", "eval_on_start": False, "heldout": None,
        "dev_prompts": None, "test_prompts": None, "exclude_sources": None, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip


def write_rows(path, count):
    """Examples that are longer than LENGTH tokens in any vocabulary, so that each is trimmed to exactly that."""
    answer = {"role": "assistant", "content": "one two three " * LENGTH}
    asked = [{"role": "user", "content": f"Count to {number}."} for number in range(count)]
    runs.write_jsonl(path, [{"messages": [question, answer]} for question in asked])


def measure(row, base, work, log):
    """Peak bytes of a run of `row` on `base`, in `work`; raises `RuntimeError` with what the run said where it fails."""
    write_rows(work / "rows.jsonl", 2 * row["tokens"] // LENGTH)
    paths = {"model_name_or_path": base, "dataset": work / "rows.jsonl", "output_dir": work / "run"}
    words = [*row["words"], *[f"--{key}={path}" for key, path in paths.items()]]
    command = [sys.executable, "-m", "lima.train.launch", "--gpus", "1", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    runs.write_text(log, done.stdout + done.stderr)
    if done.returncode:
        said = re.findall(r"^error: (.*)", done.stderr, re.MULTILINE) or done.stderr.split("\n")[-2:-1]
        raise RuntimeError(" ".join(said) or f"exit code {done.returncode}")
    lines = runs.read_jsonl(work / "run/metrics.jsonl")
    return max(line["peak_memory_gb"] for line in lines if "peak_memory_gb" in line) * 1e9


def compare(options, here):
    """Measures the rows that are open, one after another; prints the table and returns the exit code."""
    file, rows = options.out / "rows.jsonl", cases(options, here)
    kept = runs.read_jsonl(file) if file.exists() else []
    stand = {identity(row): row["measured"] for row in kept}
    for row in rows:
        row["measured"] = stand.get(identity(row))
    show_plan(options, here, rows)
    for row in measured_now(options, [row for row in rows if row["fits"] and not row["measured"]]):
        kept.append({**{key: row[key] for key in KEY}, "measured": row["measured"]})
        runs.write_jsonl(file, kept)
    run = [row for row in rows if row["fits"]]
    beyond = [row for row in run if not within(row)]
    print(f"\n{table(run)}\n\n{verdict(run, beyond)}")
    return 0 if run and not beyond else 1


def measured_now(options, rows):
    """Measures `rows`, shape by shape, and yields each that came through; what the others said is printed."""
    from benchmarks.step import model_folder

    options.out.mkdir(parents=True, exist_ok=True)
    for shape, same in itertools.groupby(rows, key=lambda row: row["shape"]):
        with tempfile.TemporaryDirectory(dir=options.out, prefix="base-") as made:
            base = model_folder(shape, Path(made).absolute())
            for row in same:
                log = options.out / f"{shape}, {row['setting']}.log"
                try:
                    with tempfile.TemporaryDirectory(dir=options.out, prefix="run-") as work:
                        row["measured"] = measure(row, base, Path(work).absolute(), log)
                except RuntimeError as error:
                    print(f"  {shape}  {row['setting']}: failed: {error}; its log: {log}", flush=True)
                    continue
                print(f"  {shape}  {row['setting']}: measured {row['measured'] / 1e9:.2f} GB", flush=True)
                yield row


def identity(row):
    """What a row is known by when the benchmark is started again."""
    return tuple(row.get(key) for key in KEY)


def difference(row):
    """How far the plan lies above what was measured, as a share of it."""
    return row["predicted"] / row["measured"] - 1


def within(row):
    """Whether a row was measured and lies within 10 %."""
    return bool(row["measured"]) and abs(difference(row)) <= WITHIN


def show_plan(options, here, rows):
    """Says what will be run, before anything is."""
    print(
        f"\nplan · predicted and measured peak memory on {here.gpu or 'no GPU'}, {here.memory / 1e9:.0f} GB · {options.steps} "
        f"steps of 2 × {options.tokens:,} tokens"
    )
    for row in rows:
        state = "to be run" if row["fits"] else "does not fit: left out"
        if row["measured"]:
            state = f"stands: {row['measured'] / 1e9:.2f} GB measured"
        print(f"  {row['shape']}  {row['setting']:<38} {row['predicted'] / 1e9:7.2f} GB  {state}")
    print(flush=True)


def table(rows):
    """The rows in Markdown."""
    lines = [
        "| shape | setting | predicted, GB | measured, GB | difference | device |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in rows:
        measured, off = "failed", "–"
        if row["measured"]:
            measured, off = f"{row['measured'] / 1e9:.2f}", f"{difference(row):+.1%}"
        named = f"{row['setting']}, {row['tokens']:,} tokens"
        lines.append(
            f"| {row['shape']} | {named} | {row['predicted'] / 1e9:.2f} | {measured} | {off} | {row['device']} |"
        )
    return "\n".join(lines)


def verdict(run, beyond):
    """How many rows lie within 10 %, and which do not."""
    if not run:
        return "none of it fits here: nothing was compared"
    named = "; ".join(f"{row['shape']} {row['setting']}" for row in beyond)
    return f"{len(run) - len(beyond)} of {len(run)} within {WITHIN:.0%}" + (f"; not: {named}" if beyond else "")


def main(argv):
    options = arguments(argv)
    import torch

    if not torch.cuda.is_available():
        raise UserError("no CUDA GPU here, and only on one can its memory be measured")
    from lima.train import memory

    return compare(options, memory.machine())


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
