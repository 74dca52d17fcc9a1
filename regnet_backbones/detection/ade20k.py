"""ADE20K's masks in the form that detectron2 expects.

The masks of the scene parsing benchmark (http://sceneparsing.csail.mit.edu) say 0 for "other" and
1 to 150 for the classes. Detectron2's datasets `ade20k_sem_seg_train` and `ade20k_sem_seg_val` read
masks that say 0 to 149 and 255 for "other", from the folder `annotations_detectron2`.
"""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.runs.image_files import UNREADABLE
from regnet_backbones.runs.progress import progress

SOURCE, TARGET = "annotations", "annotations_detectron2"
SPLITS = ("training", "validation")
CLASSES = 150


def convert_masks(root: str | Path, *, overwrite: bool = False) -> dict[Path, bool]:
    """Write `annotations_detectron2` next to `annotations`, with a progress bar.

    `root` has the layout of ADEChallengeData2016: `annotations/training/*.png`, `validation/*.png`.
    `overwrite` writes existing masks again.

    Returns:
        The folders of both splits, and whether they were written now.

    Raises:
        UserError: there are no masks to convert, or a mask is not one of the benchmark.
    """
    written = {}
    for split in SPLITS:
        source, target = Path(root) / SOURCE / split, Path(root) / TARGET / split
        masks = sorted(source.glob("*.png"))
        if not masks:
            raise MissingFileError(
                f"no masks (*.png) in '{source}'; pass the folder that contains '{SOURCE}', such "
                "as datasets/ADEChallengeData2016"
            )
        written[target] = overwrite or not target.is_dir()
        if written[target]:
            part = target.with_name(f".{split}.part")  # renamed when it is whole
            part.mkdir(parents=True, exist_ok=True)
            for mask in progress(masks, desc=split, unit=" masks"):
                _convert_mask(mask, part / mask.name)
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
    return written


def _convert_mask(source: Path, target: Path) -> None:
    """Convert one mask: each label becomes one less, and 0 becomes 255 (ignored)."""
    try:
        with Image.open(source) as image:
            labels = np.asarray(image)
    except UNREADABLE as error:
        raise UserError(f"mask '{source}' cannot be read: {error}; download it again") from error
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.max() > CLASSES:
        raise UserError(
            f"mask '{source}' must have one 8-bit channel with labels 0 to {CLASSES}, as in "
            f"ADEChallengeData2016, got {labels.dtype} {labels.shape} with labels up to "
            f"{labels.max()}; the full ADE20K is not supported"
        )
    Image.fromarray(labels - np.uint8(1)).save(target)
