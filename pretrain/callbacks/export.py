"""Write the bundle that fine-tuning starts from when training ends."""

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from ponet import PretrainingModel, save_bundle
from pretrain.strategies.gather import full_model_state


class BundleExport(Callback):
    """Save model, config and tokenizer as a bundle at the end of training.

    Args:
        folder: The bundle's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export on the first rank."""
        self.write(trainer, pl_module)

    def done(self) -> bool:
        """Whether the bundle is there."""
        return (self.folder / "model.safetensors").exists()

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the bundle, with whole float32 weights under any strategy; called on all ranks."""
        weights = full_model_state(trainer)
        if weights is None:
            return
        pairs = pl_module.objective.num_pair_classes
        model = PretrainingModel(pl_module.encoder_config, num_pair_classes=pairs)
        model.load_state_dict(weights)
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        save_bundle(
            self.folder,
            model,
            tokenizer_json=datamodule.tokenizer_path,
            metadata={
                "objective": pl_module.objective.name,
                "steps": trainer.global_step,
                "samples_seen": trainer.global_step * datamodule.global_batch_size,
                "max_len": datamodule.max_len,
                "data_digest": datamodule.data_digest,
            },
        )
