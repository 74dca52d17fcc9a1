"""Masks as COCO's run-length encodings."""

import numpy as np
from pycocotools import mask as coco_mask


def rle_of(mask, *, compressed):
    """Return a mask as an RLE, in either of COCO's two forms."""
    if compressed:
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    flat = mask.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": runs if flat[0] == 0 else [0, *runs]}
