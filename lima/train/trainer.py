"""TRL's `SFTTrainer` with the batches that the plan has dealt, and checkpoints that are complete or absent."""

import shutil

from torch.utils.data import DataLoader
from trl import SFTTrainer

from lima import runs, turns
from lima.train import checkpoints


class ExactTrainer(SFTTrainer):
    """`batches` is an `ExactBatches`; the training data holds its filler row behind the examples.

    `keep_epochs` and `identity`: see `checkpoints.thin` and `checkpoints.save`.
    """

    def __init__(self, *, batches, keep_epochs, identity, **kwargs):
        self.batches, self.keep_epochs, self.identity = batches, keep_epochs, identity
        super().__init__(**kwargs)
        if len(self.train_dataset) != batches.filler + 1:
            raise RuntimeError(f"{batches.filler} rows went in, {len(self.train_dataset) - 1} are trained on")

    def get_train_dataloader(self):
        """Not `accelerator.prepare`d: each rank's batches are its own already, and a second sharding would drop some."""
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        loader.set_epoch = self.batches.set_epoch  # the Trainer looks for it there
        return loader

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Lends DeepSpeed's ZeRO optimiser the `defaults` of the one inside: the polynomial schedule reads its rate there."""
        zero = getattr(self.optimizer, "optimizer", None)
        if hasattr(zero, "optimizer") and not hasattr(zero, "defaults"):
            zero.defaults = zero.optimizer.defaults
        return super().create_scheduler(num_training_steps, optimizer)

    def train(self, *args, **kwargs):
        out = super().train(*args, **kwargs)
        self._thin()
        return out

    def _thin(self):
        if self.is_world_process_zero():
            checkpoints.thin(self.args.output_dir, self.keep_epochs, self.batches.steps(), newest=1)

    def _save_checkpoint(self, model, trial):
        self._thin()
        output_dir, state = self.args.output_dir, self.state
        self.args.output_dir = str(checkpoints.saving_folder(output_dir))  # where the Trainer's own saving writes
        plain = super()._save_checkpoint

        def write():
            plain(model, trial)
            if state.is_world_process_zero:
                turns.mend_saved_tokenizer(f"{self.args.output_dir}/checkpoint-{state.global_step}")

        try:
            with runs.full_disk_said(output_dir):
                checkpoints.save(output_dir, state.global_step, state.epoch, self.identity, write)
        except BaseException:
            # half a checkpoint is of no use, and fills the disk
            shutil.rmtree(self.args.output_dir, ignore_errors=True)
            raise
        finally:
            self.args.output_dir = output_dir

    def create_model_card(self, *args, **kwargs):
        """None: the card is written when a run is published."""
