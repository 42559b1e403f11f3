"""What the paper leaves open, asked of the embedded 135M: the arms on a few bundled examples, three seeds each.

    python -m benchmarks.open_questions            about 40 minutes on 2 idle cores; again, it goes on where it was

The 16 shortest of the bundled examples, ten epochs, batch 8, rate 3e-4: what such a model learns in minutes is to stop and to
keep a tone, so the figure says what each choice does to that and to held-out loss, and nothing of how helpful a 65B would be.
Runs lie in runs/quickstart-ARM-sSEED, the picture is the report's own.
"""

import os
import sys
from pathlib import Path

from lima import exit_codes, runs
from lima.reproduce import ablation

FOLDER = Path("data/open-questions")
FLAGS = ["--residual_dropout", "0.2", "--num_train_epochs", "10", "--max_length", "1024", "--tokens_per_device", "1024",
         "--over_length", "trim", "--save_strategy", "steps", "--save_steps", "10", "--sample_prompts", "0",
         "--eval_on_start", "false", "--report_to", "none", "--dataset", str(FOLDER / "train.jsonl"),
         "--heldout", str(FOLDER / "heldout.jsonl")]  # fmt: skip


def main(argv):
    rows = [row for row in runs.read_jsonl("data/starter.jsonl") if len(row["messages"]) == 2]
    runs.write_jsonl(FOLDER / "train.jsonl", sorted(rows, key=characters)[:16])
    runs.write_jsonl(FOLDER / "heldout.jsonl", sorted(runs.read_jsonl("data/heldout.jsonl"), key=characters)[:8])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two runs at a time, a core each
    answers = ["--limit", "24", "--samples", "1", "--max_new_tokens", "128"]
    return ablation.main(
        ["open-questions", "--size", "quickstart", "--seeds", "3", "--jobs", "2", *answers, *argv, *FLAGS]
    )


def characters(row):
    return sum(len(message["content"]) for message in row["messages"])


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
