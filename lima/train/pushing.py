"""Pushing while training goes on: a process of its own a checkpoint, which the run neither waits for nor depends on."""

import os
import subprocess
import sys

from transformers import TrainerCallback

from lima import runs
from lima.train import ranks


class PushEachEpoch(TrainerCallback):
    """Starts `python -m lima.publish.each_epoch` for every checkpoint that the run keeps.

    `hub`: org/name or dir:PATH; None for no pushing.
    """

    def __init__(self, hub, keep_epochs, steps_per_epoch):
        self.hub, self.keep, self.steps = hub, runs.parse_epochs(keep_epochs), steps_per_epoch

    def on_save(self, args, state, control, **kwargs):
        epoch, rest = divmod(state.global_step, self.steps)
        kept = self.keep(epoch) or state.global_step == state.max_steps
        if self.hub and state.is_world_process_zero and kept and not rest:
            self._start(args.output_dir, f"checkpoint-{state.global_step}", epoch)

    def _start(self, run, checkpoint, epoch):
        words = ["--run", run, "--checkpoint", checkpoint, "--epoch", str(epoch), "--hub", self.hub]
        path = ranks.log_file(run, 0).with_name("push.log")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as log:
                subprocess.Popen(
                    ["nice", "-n", "19", sys.executable, "-m", "lima.publish.each_epoch", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={**_alone(), "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"},
                )
        except OSError as error:  # a push never costs a run
            print(f"note: {run}/{checkpoint} is not pushed ({error})", flush=True)


def _alone():
    """This environment without what makes a process one rank of several."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", ranks.ERROR_FILE)
    }
