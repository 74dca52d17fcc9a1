"""Images of shapes and what is known about them: what to draw, geometry and paint.

Every image is drawn from its own random generator, seeded by (seed, split, index): the same
spec gives the same bytes, and asking for more images does not change the ones already there.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from regnet_backbones.errors import UserError
from regnet_backbones.shapes.geometry import CATEGORIES, locate, outline, trace, with_visibility

BACKGROUND = "background"
SPLITS = ("train", "val")

MIN_SHAPES, MAX_SHAPES = 2, 5  # in an image, fewer where they do not fit
MIN_SIZE, MAX_SIZE = 0.2, 0.6  # longer side of a shape, as a part of the image's
MAX_OVERLAP = 0.3  # the part of a shape that later shapes and the frame may hide
MAX_TILT = 20.0  # degrees, to either side

_SUPERSAMPLE = 8  # sub-pixels per pixel and axis behind every anti-aliased edge
# A pixel belongs to a shape covering half of it; Pillow draws half a sub-pixel too much per edge.
_COVERED = 0.5 + 0.5 / _SUPERSAMPLE
_PLACE_TRIES = 20


@dataclass(frozen=True)
class ShapesSpec:
    """What to draw.

    Attributes:
        num_train: images of the split "train".
        num_val: images of the split "val".
        image_size: pixels, both sides, at least 32.
        seed: the same seed draws the same.

    Raises:
        ValueError: a number is too small.
    """

    num_train: int = 1600
    num_val: int = 100
    image_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in {"num_train": 1, "num_val": 1, "image_size": 32, "seed": 0}.items():
            if getattr(self, name) < low:
                raise UserError(f"{name} must be at least {low}, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Sample:
    """One drawn image; number k of `instances` is the item k - 1 of each of the tuples.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        instances: int32 (H, W), 0 is background.
        categories: 1 to 5, indices into `CATEGORIES` plus one.
        polygons: of the visible part, arrays (points, 2) of x, y.
        keypoints: arrays (5, 3) of x, y and COCO's visibility flag; see `KEYPOINTS`.
    """

    image: np.ndarray
    instances: np.ndarray
    categories: tuple[int, ...]
    polygons: tuple[list[np.ndarray], ...]
    keypoints: tuple[np.ndarray, ...]


def draw(spec: ShapesSpec, split: str, index: int) -> Sample:
    """Return an image of a split; it depends on nothing but the spec's seed and image size.

    Args:
        spec: what to draw.
        split: "train" or "val".
        index: of the image, from 0, however many there are.
    """
    rng = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    side = spec.image_size
    canvas = _paint(rng, (side, side), rng.uniform(0.15, 0.75, 3), contrast=0.15)
    instances = np.zeros((side, side), np.int32)
    shapes: list[_Shape] = []
    for _ in range(rng.integers(MIN_SHAPES, MAX_SHAPES + 1)):
        shape = _place(rng, instances, shapes)
        if shape is not None:
            _render(rng, canvas, shape)
            shapes.append(shape)
            instances[shape.window][shape.mask] = len(shapes)
    canvas += rng.normal(0, rng.uniform(0.005, 0.02), (side, side, 1))
    polygons, keypoints = [], []
    for k, shape in enumerate(shapes, 1):
        visible = instances == k
        # The drawn outline where nothing is hidden, else a trace.
        polygons.append([shape.outline] if visible.sum() == shape.area else trace(visible))
        points = locate(CATEGORIES[shape.category - 1], shape.outline)
        keypoints.append(with_visibility(points, instances, k))
    return Sample(
        image=(canvas.clip(0, 1) * 255).round().astype(np.uint8),
        instances=instances,
        categories=tuple(shape.category for shape in shapes),
        polygons=tuple(polygons),
        keypoints=tuple(keypoints),
    )


@dataclass(frozen=True, eq=False)
class _Shape:
    """A placed shape; alpha, rim and mask cover `window`, the part of its frame in the image."""

    category: int
    outline: np.ndarray  # (points, 2) of x, y
    area: int  # pixels, hidden and outside ones too
    window: tuple[slice, slice]
    alpha: np.ndarray  # 0..1, how much of a pixel the shape covers
    rim: np.ndarray  # the same for its drawn border, all 0 when it has none
    mask: np.ndarray


def _place(rng: np.random.Generator, instances: np.ndarray, placed: list[_Shape]) -> _Shape | None:
    """Try positions until the new shape and all those below it stay visible enough."""
    keep = 1 - MAX_OVERLAP
    areas = np.array([0, *(shape.area for shape in placed)])
    visible = np.bincount(instances.ravel(), minlength=len(areas))
    for _ in range(_PLACE_TRIES):
        shape = _random_shape(rng, len(instances))
        hidden = np.bincount(instances[shape.window][shape.mask], minlength=len(areas))
        if shape.mask.sum() >= keep * shape.area and np.all(
            (visible - hidden)[1:] >= keep * areas[1:]
        ):
            return shape
    return None


def _random_shape(rng: np.random.Generator, side: int) -> _Shape:
    category = int(rng.integers(1, len(CATEGORIES) + 1))
    size = side * math.exp(rng.uniform(math.log(MIN_SIZE), math.log(MAX_SIZE)))
    margin = size * (1 - MAX_OVERLAP) / 2
    angle = math.radians(rng.uniform(-MAX_TILT, MAX_TILT))
    rotation = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    unit = outline(rng, CATEGORIES[category - 1]) * (1, rng.uniform(0.75, 1))
    points = size * unit @ rotation + rng.uniform(margin, side - margin, 2)
    border = rng.uniform(0.05, 0.09) * size if rng.random() < 0.4 else 0.0
    return _rasterise(category, points.round(2), max(1.0, border) if border else 0.0, side)


def _rasterise(category: int, outline: np.ndarray, border: float, side: int) -> _Shape:
    """Draw a shape supersampled in its own frame, then crop it to the image."""
    low = np.floor(outline.min(axis=0)).astype(int)
    high = np.ceil(outline.max(axis=0)).astype(int)
    # Whole sub-pixels: Pillow would cut fractions off, and it draws the ones an edge runs through.
    points = [tuple(point) for point in np.floor((outline - low) * _SUPERSAMPLE).tolist()]
    width, height = (high - low).tolist()
    fine = Image.new("L", (width * _SUPERSAMPLE, height * _SUPERSAMPLE))
    ImageDraw.Draw(fine).polygon(points, fill=255)
    alpha = _coverage(fine)
    line = Image.new("L", fine.size)
    if border:
        # Half the stroke falls outside the shape, where alpha hides it.
        stroke = round(2 * border * _SUPERSAMPLE)
        ImageDraw.Draw(line).line([*points, *points[:2]], fill=255, width=stroke, joint="curve")
    (left, top), (right, bottom) = low.clip(0, side), high.clip(0, side)
    crop = slice(top - low[1], bottom - low[1]), slice(left - low[0], right - low[0])
    return _Shape(
        category=category,
        outline=outline,
        area=int((alpha >= _COVERED).sum()),
        window=(slice(top, bottom), slice(left, right)),
        alpha=alpha[crop],
        rim=_coverage(line)[crop],
        mask=alpha[crop] >= _COVERED,
    )


def _coverage(fine: Image.Image) -> np.ndarray:
    return np.asarray(fine.reduce(_SUPERSAMPLE), dtype=np.float64) / 255


def _render(rng: np.random.Generator, canvas: np.ndarray, shape: _Shape) -> None:
    """Paint a shape over the canvas: textured fill, light from one side, sometimes a border."""
    below = canvas[shape.window]
    colours = rng.random((4, 3))
    distances = np.linalg.norm(colours - below[shape.mask].mean(axis=0), axis=1)
    base = colours[distances.argmax()]
    fill = _paint(rng, shape.mask.shape, base, contrast=0.1)
    fill += 0.25 * (_gradient(rng, shape.mask.shape)[..., None] - 0.5)
    rim_colour = base * 0.35 if rng.random() < 0.6 else base + 0.7 * (1 - base)
    fill += shape.rim[..., None] * (rim_colour - fill)
    below += shape.alpha[..., None] * (fill.clip(0, 1) - below)


def _paint(
    rng: np.random.Generator, shape: tuple[int, int], colour: np.ndarray, *, contrast: float
) -> np.ndarray:
    """Blend a colour with a neighbouring one along a random texture, (H, W, 3) of about 0..1."""
    texture = (_gradient, _stripes, _checks, _blotches)[rng.integers(4)](rng, shape)
    second = (colour + rng.uniform(-contrast, contrast, 3)).clip(0, 1)
    return colour + texture[..., None] * (second - colour)


def _ramp(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Distance in pixels along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.cos(angle) * x + np.sin(angle) * y


def _gradient(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    ramp = _ramp(rng, shape)
    return (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-9)


def _stripes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    period = rng.uniform(5, 18)
    wave = np.sin(2 * np.pi * (_ramp(rng, shape) / period + rng.random()))
    return (0.5 + 1.5 * wave).clip(0, 1)


def _checks(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    period, angle = rng.uniform(8, 22), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]] * (2 * np.pi / period)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return (0.5 + 2.5 * np.sin(along) * np.sin(across)).clip(0, 1)


def _blotches(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    count = rng.integers(3, 8)
    coarse = Image.fromarray(rng.random((count, count)).astype(np.float32))
    smooth = np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC), dtype=np.float64)
    return smooth.clip(0, 1)
