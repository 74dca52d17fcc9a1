"""Check polygons and RLE of a COCO json; nothing is drawn."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from regnet_backbones.detection.data_checks import coco_kinds as kinds
from regnet_backbones.detection.data_checks.defects import Kind, Use

Rle = Mapping[str, object]


def segmentation_problems(
    segmentation: Sequence | Rle | None, size: tuple[int, int], use: Use, *, crowd: bool
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with a segmentation: kinds, and what was found.

    Args:
        segmentation: polygons, an RLE, or nothing.
        size: height and width of the image.
        use: what the dataset is for.
        crowd: whether it is that of a crowd region, which is not trained on.
    """
    # Masks of crowd regions are never drawn in training.
    drawn = use.masks and (use.test or not crowd)
    if not segmentation:
        if drawn:
            yield kinds.NO_MASK, ""
    elif is_rle(segmentation):
        if drawn and use.train and use.polygons and not crowd:
            yield kinds.RLE_FOR_POLYGON, ""
        yield from _rle_problems(segmentation, size, drawn=drawn)
    else:
        yield from _polygon_problems(segmentation, use, drawn=drawn)


def is_rle(segmentation: Sequence | Rle | None) -> bool:
    """Tell whether a segmentation has the form of an RLE."""
    return isinstance(segmentation, dict)


def drawable(polygons: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Return the polygons that detectron2 keeps: of 3 points or more, of x and y in turn."""
    return [polygon for polygon in polygons if len(polygon) % 2 == 0 and len(polygon) >= 6]


def extent_of(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float] | None:
    """Return left, top, right and bottom of polygons; None where none can be drawn."""
    kept = drawable(polygons)
    if not kept:
        return None
    xs, ys = [x for p in kept for x in p[::2]], [y for p in kept for y in p[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def area_of(segmentation: Sequence | Rle) -> float:
    """Return the pixels of a segmentation, 0 where it cannot be decoded."""
    if is_rle(segmentation):
        runs = _runs_of(segmentation["counts"])
        return 0 if runs is None else int(runs[1::2].sum())
    area = 0.0
    for polygon in drawable(segmentation):
        x, y = np.array(polygon[::2]), np.array(polygon[1::2])
        area += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return float(area)


def _polygon_problems(
    polygons: Sequence[Sequence[float]], use: Use, *, drawn: bool
) -> Iterator[tuple[Kind, str]]:
    lengths = [len(polygon) for polygon in polygons]
    kept = drawable(polygons)
    detail = f"values: {', '.join(str(length) for length in lengths)}"
    if not kept:
        if use.train:
            yield kinds.DROPPED_ANNOTATION, detail
        if use.test and use.masks:
            yield kinds.NO_POLYGON, detail
    elif len(kept) < len(polygons):
        yield kinds.DROPPED_POLYGON, detail
        if use.test and use.masks and lengths[0] == 4:
            yield kinds.BOX_FOR_POLYGON, detail


def _rle_problems(rle: Rle, size: tuple[int, int], *, drawn: bool) -> Iterator[tuple[Kind, str]]:
    rle_size, counts = rle["size"], rle["counts"]
    if drawn and tuple(rle_size) != size:
        yield kinds.RLE_SIZE, f"RLE {rle_size[1]}x{rle_size[0]}, image {size[1]}x{size[0]}"
    elif drawn and not _adds_up(counts, size[0] * size[1]):
        yield kinds.BROKEN_RLE, ""


def _adds_up(counts: list[int] | str, pixels: int) -> bool:
    """Tell whether the runs of an RLE are those of so many pixels."""
    runs = _runs_of(counts)
    return runs is not None and bool((runs >= 0).all() and runs.sum() == pixels)


def _runs_of(counts: list[int] | str) -> np.ndarray | None:
    """Return the runs of an RLE, None where they cannot be decoded."""
    try:
        return np.array(counts, np.int64) if isinstance(counts, list) else _decode(counts)
    except (TypeError, ValueError, OverflowError):
        return None


def _decode(text: str) -> np.ndarray:
    """Return the runs of a compressed RLE, as pycocotools' `rleFrString` reads them.

    A character holds 5 bits of a number, the lowest first, and whether more follow; the sign is the
    highest bit of the last. From the fourth run on, a number is the difference to the run before
    the last.
    """
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if (codes < 0).any() or (codes > 63).any():
        raise ValueError("a character that no RLE has")
    last = np.flatnonzero(codes & 32 == 0)
    if not len(last) or last[-1] != len(codes) - 1:
        raise ValueError("the last number has no end")
    first = np.concatenate(([0], last[:-1] + 1))
    position = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if position.max() > 10:
        raise ValueError("a number of more than 50 bits")
    numbers = np.add.reduceat((codes & 31) << (5 * position), first)
    negative = codes[last] & 16 != 0
    runs = numbers - np.where(negative, 1 << (5 * (position[last] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
