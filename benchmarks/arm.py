"""One training of `make bench`, in a process of its own: `trl CONFIG.yaml` or `ours FLAGS …`
(`ours-malloc`: without our settings of the allocator).

`trl` is the program behind the `trl sft` command, as installed. Prints one line, `ARM {…}`: seconds of every step, losses,
peak memory and, of ours on a GPU, MFU in percent.
"""

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
import transformers

from lima import runs


class Stamp(transformers.TrainerCallback):
    """Takes the time at every step's end, and says at the end of training what it saw."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.times = [time.perf_counter()]

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def on_train_end(self, args, state, control, **kwargs):
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        seen = {
            "seconds": [after - before for before, after in pairwise(self.times)],
            "losses": [row["loss"] for row in state.log_history if "loss" in row],
            "memory": memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "mfu": [row["mfu"] for row in metrics(args.output_dir) if "mfu" in row],
        }
        print("ARM " + json.dumps(seen), flush=True)


def metrics(folder):
    """The rows that our runs keep beside their checkpoints; none for TRL's."""
    file = Path(folder) / "metrics.jsonl"
    return runs.read_jsonl(file) if file.exists() else []


def main(kind, *words):
    transformers.trainer.DEFAULT_CALLBACKS.append(Stamp)
    if kind.startswith("ours"):
        import lima_sft
        from lima.train import malloc

        if kind == "ours-malloc":
            malloc.keep_freed_memory = malloc.GiveBack.on_step_end = lambda *args, **kwargs: None
        lima_sft.main(list(words))
    else:
        from trl.scripts import sft

        sft.main(*sft.make_parser().parse_args_and_config(["--config", words[0]]))


if __name__ == "__main__":
    main(*sys.argv[1:])
