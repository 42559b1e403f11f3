"""Which checkpoints a run keeps: one an epoch, weights of the epochs in `keep_epochs` and of the last (section 3)."""

import shutil

from transformers import TrainerCallback

from lima import runs

RESUME_ONLY = ("optimizer.pt", "scheduler.pt", "rng_state*.pth", "global_step*", "zero_to_fp32.py", "latest")


class KeepEpochs(TrainerCallback):
    """After each save: older checkpoints outside `keep_epochs` go, and kept ones lose their optimiser state."""

    def __init__(self, keep_epochs):
        self.keep = runs.parse_epochs(keep_epochs)

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        runs.forget_former(args.output_dir)  # the run that this one replaces
        steps = state.max_steps / state.num_train_epochs
        for folder in runs.checkpoints(args.output_dir):
            step = int(folder.name.split("-")[1])
            if step >= state.global_step:
                continue
            if self.keep(round(step / steps)):
                for pattern in RESUME_ONLY:
                    for path in folder.glob(pattern):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            else:
                shutil.rmtree(folder)


def kept(epochs, keep_epochs):
    """Epoch numbers whose weights stand at the end of a run of `epochs` epochs."""
    keep = runs.parse_epochs(keep_epochs)
    return [epoch for epoch in range(1, epochs + 1) if keep(epoch) or epoch == epochs]
