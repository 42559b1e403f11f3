"""Being told to stop: a signal ends the run after the step that is running, with a checkpoint to go on from."""

import os
import signal

from transformers import TrainerCallback

from lima.train import ranks


class StopWhenTold(TrainerCallback):
    """Saves and stops at the end of a step once any rank got one of `ranks.STOP`; `told` is the signal then.

    A second Ctrl-C stops at once. Before training begins, and after it, signals do what they always do.
    """

    def __init__(self):
        self.heard, self.told, self.former = 0, None, {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.former = {number: signal.signal(number, self._hear) for number in ranks.STOP}

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _hear(self, number, frame):
        if number == signal.SIGINT and self.heard == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.heard and ranks.place()[0] == 0:
            again = "; Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            said = f"\n{signal.Signals(number).name}: saving at the end of this step, then stopping{again}\n"
            os.write(2, said.encode())  # not print, which the signal may have interrupted
        self.heard = number

    def on_step_end(self, args, state, control, **kwargs):
        heard = max(ranks.gathered(int(self.heard)))
        if heard and state.global_step < state.max_steps:
            self.told = signal.Signals(heard)
            control.should_save = control.should_training_stop = True

    def say(self):
        """Says how to go on. Raises `KeyboardInterrupt` where it was Ctrl-C, for the exit code that this has."""
        if ranks.place()[0] == 0:
            print(
                f"  stopped   by {self.told.name}; the same command with --resume auto goes on (make does)", flush=True
            )
        if self.told == signal.SIGINT:
            raise KeyboardInterrupt

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.told:  # within an epoch, and saved already
            control.should_save = control.should_evaluate = control.should_log = False
