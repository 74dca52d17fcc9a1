"""Precomputed proposals (`MODEL.LOAD_PROPOSALS`), read without running what their file says."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from detectron2.data import build
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from regnet_backbones.errors import UserError
from regnet_backbones.weights.state_dicts import shown
from regnet_backbones.weights.unpickling import read_content

# What a file holds, and what Detectron called it.
NAMES = {"ids": "indexes", "boxes": "boxes", "objectness_logits": "scores"}


def read_safely() -> None:
    """Have detectron2's datasets read proposals with `load_proposals`: its own unpickles them."""
    build.load_proposals_into_dataset = load_proposals


def load_proposals(records: list[dict], file: str) -> list[dict]:
    """Add to each record of a dataset the proposals of its image, the best first.

    Args:
        records: in detectron2's form.
        file: a pickle of "ids", "boxes" and "objectness_logits", lists with an entry for each
            image, and perhaps "bbox_mode" (`detectron2.data.build.load_proposals_into_dataset`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is something else, or lacks an image.
    """
    content = read_content(Path(PathManager.get_local_path(file)))
    found = content if isinstance(content, Mapping) else {}
    lists = {name: found.get(name, found.get(old)) for name, old in NAMES.items()}
    if not all(
        isinstance(value, list) and len(value) == len(lists["ids"]) for value in lists.values()
    ):
        raise UserError(
            f"proposals '{file}' must be a dict of {', '.join(NAMES)}, lists of one length; write "
            "them as detectron2's COCOEvaluator does (box_proposals.pkl)"
        )
    mode = found.get("bbox_mode", BoxMode.XYXY_ABS.value)
    if type(mode) is not int or mode not in list(BoxMode):
        raise UserError(f"proposals '{file}': unknown bbox_mode {shown(mode)}")
    places = {str(image): place for place, image in enumerate(lists["ids"])}
    for record in records:
        image = record["image_id"]
        place = places.get(str(image))
        if place is None:
            raise UserError(
                f"proposals '{file}' have none for image {image!r}; compute them for this dataset"
            )
        arrays = boxes, scores = lists["boxes"][place], lists["objectness_logits"][place]
        if not all(
            isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and np.isfinite(array).all()
            for array in arrays
        ) or (scores.ndim, boxes.shape) != (1, (len(scores), 4)):
            raise UserError(
                f"proposals '{file}' of image {image!r} must be finite boxes (N, 4) and scores "
                "(N,), numpy arrays of numbers"
            )
        order = scores.argsort()[::-1]
        record["proposal_boxes"] = boxes[order]
        record["proposal_objectness_logits"] = scores[order]
        record["proposal_bbox_mode"] = BoxMode(mode)
    return records
