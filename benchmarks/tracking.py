"""What logging and sampling cost: one epoch of the 135M on the bundled examples, every callback's time beside the steps'.

    python -m benchmarks.tracking                       about 5 minutes on 2 cores
    python -m benchmarks.tracking --report_to none      and any other key of the recipe

The training is `lima_sft.py`'s own, W&B offline included; a callback's seconds hold what it calls in turn. Sampling happens
once an epoch and does not grow with the data: on the paper's 1,000 examples an epoch is 32 steps, not 6.
"""

import sys
import tempfile
import time
from collections import Counter

from transformers.trainer_callback import CallbackHandler

from lima import exit_codes

WORDS = [
    *("--config", "recipes/135m.yaml", "--dataset", "data/starter.jsonl", "--num_train_epochs", "1"),
    *("--save_strategy", "no", "--eval_on_start", "false", "--heldout", "null"),
]
spent = Counter()


def timed(event):
    """`CallbackHandler.call_event`, one callback at a time, with a clock beside each."""

    def call(self, name, args, state, control, **kwargs):
        outer, self.callbacks = self.callbacks, getattr(self, "whole", self.callbacks)
        self.whole = self.callbacks
        try:
            for callback in self.whole:
                self.callbacks, start = [callback], time.perf_counter()
                control = event(self, name, args, state, control, **kwargs)
                spent[type(callback).__name__] += time.perf_counter() - start
        finally:
            self.callbacks = outer
        return control

    return call


def main(argv):
    import lima_sft
    from lima.train.trainer import ExactTrainer

    steps, step = [], ExactTrainer.training_step

    def clocked(self, *args, **kwargs):
        start = time.perf_counter()
        loss = step(self, *args, **kwargs)
        steps.append(time.perf_counter() - start)
        return loss

    CallbackHandler.call_event = timed(CallbackHandler.call_event)
    ExactTrainer.training_step = clocked
    with tempfile.TemporaryDirectory() as folder:
        code = lima_sft.main([*WORDS, "--output_dir", f"{folder}/run", *argv])
    training, rest = sum(steps), sum(spent.values())
    print(f"\n| forward and backward, {len(steps)} micro-batches | {training:.1f} s | |\n|---|---:|---:|")
    for name, seconds in spent.most_common():
        if seconds >= 0.001:
            print(f"| {name} | {seconds:.3f} s | {seconds / training:.2%} |")
    print(f"| all callbacks | {rest:.3f} s | {rest / training:.2%} |")
    return code


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
