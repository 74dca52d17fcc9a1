"""A look at the data of a detector before the first step: see `regnet_backbones.runs.look`."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain, islice
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.structures import BoxMode
from PIL import Image

from regnet_backbones.detection.pictures import PIXELS, Canvas
from regnet_backbones.detection.training.loader import TrainLoader, train_mapper
from regnet_backbones.runs.look import PICTURES, SIDE, mosaic, show, table_of

# Of more records, as many are counted, evenly spread: a look takes no longer than two seconds.
COUNTED = 4000


def look_at(cfg: CfgNode, loader: TrainLoader | None = None) -> None:
    """Print how often and how large objects are; write training images to `data.png`."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])

    @cache
    def batches() -> TrainLoader:
        return loader or TrainLoader(cfg, train_mapper(cfg))

    def picture() -> Image.Image:
        samples = islice(chain.from_iterable(batches().repeat_first(PICTURES)), PICTURES)
        return mosaic([_drawn(sample, cfg.INPUT.FORMAT, metadata) for sample in samples])

    show(
        Path(cfg.OUTPUT_DIR),
        table=lambda: sizes_by_class(batches().records, metadata),
        picture=picture if cfg.TEST.PICTURES else None,
    )


def sizes_by_class(records: Sequence[dict], metadata: Metadata) -> str:
    """Format the number of boxes and images, and the sizes of boxes, by class."""
    chosen = range(0, len(records), -(-len(records) // COUNTED))
    sides, images = defaultdict(list), Counter()
    for index in chosen:
        objects = [a for a in records[index].get("annotations", ()) if not a.get("iscrowd", 0)]
        images.update({a["category_id"] for a in objects})
        for annotation in objects:
            mode = annotation["bbox_mode"]
            *_, width, height = BoxMode.convert(annotation["bbox"], mode, BoxMode.XYWH_ABS)
            sides[annotation["category_id"]].append(float(np.sqrt(width * height)))
    every = f"{len(chosen):,} of {len(records):,} training images"
    boxes = sum(map(len, sides.values()))
    if not boxes or not metadata.get("thing_classes"):
        return every
    rows = [
        [name, len(sides[k]), f"{len(sides[k]) / boxes:.1%}", images[k]]
        + [f"{s:.0f}" for s in np.percentile(sides[k] or [np.nan], (5, 50, 95))]
        for k, name in enumerate(metadata.thing_classes)
    ]
    headers = (every, "boxes", "share", "images", "side in pixels: 5 %", "50 %", "95 %")
    return table_of(headers, sorted(rows, key=lambda row: -row[1]))


def _drawn(sample: Mapping, channels: str, metadata: Metadata) -> Image.Image:
    """Draw a training image with its labels, as it comes out of the augmentation."""
    image = utils.convert_image_to_rgb(sample["image"].permute(1, 2, 0), channels)
    canvas = Canvas(image, metadata, SIDE / min(image.shape[:2]))
    if "sem_seg" in sample:
        canvas.draw_sem_seg(sample["sem_seg"], **PIXELS)
    if "instances" in sample:
        fields = sample["instances"].get_fields()
        parts = {name: fields.get(f"gt_{name}") for name in ("boxes", "masks", "keypoints")}
        classes = fields["gt_classes"].tolist()
        names = [metadata.thing_classes[k] for k in classes]
        colors = canvas.instance_colors(classes)
        canvas.overlay_instances(labels=names, assigned_colors=colors, **parts)
    return Image.fromarray(canvas.output.get_image())
