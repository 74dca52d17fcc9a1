"""Train a semantic segmenter on a RegNet: ADE20K, Cityscapes, or folders of images and masks.

    python tools/train_semseg.py --config configs/semseg/quick/unet_regnet_small_shapes.yaml
    python tools/train_semseg.py --config ... --model.encoder regnety_032 --trainer.max_steps 2000
    python tools/train_semseg.py --config ... --output output/mine --resume
    python tools/train_semseg.py --config ... --model.optimize true --model.compile true
    python tools/train_semseg.py --config ... --data.layout folder \
        --data.train_images images/train --data.train_masks masks/train \
        --data.val_images images/val --data.val_masks masks/val --data.num_classes 5

Options are Lightning's: `--data.*`, `--model.*`, `--trainer.*` (`--trainer.devices 8` and
`--trainer.num_nodes`, `--trainer.precision bf16-mixed`), `--checkpoint.*`; `--print_config` prints
the whole configuration with every default.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and return the exit status."""
    from regnet_backbones.cli.failures import reported
    from regnet_backbones.semseg.run import launch_run

    return reported(lambda: launch_run(argv))


if __name__ == "__main__":
    sys.exit(main())
