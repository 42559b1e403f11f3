"""TRL's `SFTTrainer` with the batches that the plan has dealt."""

from torch.utils.data import DataLoader
from trl import SFTTrainer


class ExactTrainer(SFTTrainer):
    """`batches` is an `ExactBatches`; the training data holds its filler row behind the examples."""

    def __init__(self, *, batches, **kwargs):
        self.batches = batches
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

    def create_model_card(self, *args, **kwargs):
        """None: the card is written when a run is published."""
