"""A small segmenter for tests, trained for one step."""

import lightning
import torch

from regnet_backbones.semseg.module import Segmenter


def train_segmenter(data, **options):
    """Train on data, always alike, and return the trainer; options are of the `Segmenter`."""
    torch.manual_seed(0)
    defaults = {
        "encoder": "regnetx_002",
        "encoder_weights": None,
        "decoder_options": {"decoder_channels": [32, 32, 16, 16, 8]},
        "pictures": 0,
    }
    model = Segmenter(data.num_classes, class_names=data.class_names, **(defaults | options))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, data)
    return trainer
