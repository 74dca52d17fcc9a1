"""The demo dataset: five kinds of drawn shapes, for training and testing without a download.

Every image is drawn from its own random generator, seeded by (seed, split, index): the same
spec gives the same bytes, and asking for more images does not change the ones already there.
Colour, texture, size and rotation tell nothing about the class; later shapes hide earlier ones.

Written under one root folder:

    spec.json                                       what was drawn; only a whole dataset has it
    images/{train,val}/000000.png                   RGB
    annotations/instances_{train,val}.json          COCO instances: boxes and polygons
    annotations/panoptic_{train,val}.json           COCO panoptic: segments ...
    panoptic/{train,val}/000000.png                 ... and their ids, R + 256 G + 65536 B
    semantic/images/{training,validation}/          the same images, hard-linked where possible
    semantic/annotations/{training,validation}/     labels as uint8, 0 is unlabelled
    semantic/objectInfo.txt                         label and name, tab-separated

Categories 1..5 are things, category 6 ("background") is stuff; the semantic labels are the same
numbers. Sources of the formats: https://cocodataset.org/#format-data for instances and panoptic;
MIT Scene Parsing Benchmark (ADE20K, http://sceneparsing.csail.mit.edu) for the semantic layout.

Coordinates are COCO's: the pixel in column x and row y is the square [x, x + 1] x [y, y + 1].
"""

import json
import logging
import math
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

logger = logging.getLogger(__name__)

CATEGORIES = ("circle", "square", "triangle", "star", "cross")
BACKGROUND = "background"
SPLITS = ("train", "val")

# Raise it when the same spec draws or writes something else, so that old folders are not reused.
FORMAT = {"dataset": "regnet_backbones.shapes", "version": 1}
SPEC_FILE = "spec.json"

_BACKGROUND_ID = len(CATEGORIES) + 1
_SEMANTIC_SPLITS = {"train": "training", "val": "validation"}
_SUPERSAMPLE = 8  # sub-pixels per pixel and axis behind every anti-aliased edge
# A pixel belongs to a shape covering half of it; Pillow draws half a sub-pixel too much per edge.
_COVERED = 0.5 + 0.5 / _SUPERSAMPLE
_PLACE_TRIES = 20
# Odd, hence one-to-one modulo 2 ** 24: panoptic ids become colours the eye can tell apart.
_ID_STRIDE = 0x5B8F27
# The four sides of a pixel: (dx, dy) to the neighbour, the side's first corner, the step along it.
# Steps run clockwise on the screen, the pixel on the right hand.
_SIDES = (
    ((0, -1), (0, 0), (1, 0)),
    ((1, 0), (1, 0), (0, 1)),
    ((0, 1), (1, 1), (-1, 0)),
    ((-1, 0), (0, 1), (0, -1)),
)


@dataclass(frozen=True)
class ShapesSpec:
    """What to draw; an image holds 1 to `max_shapes` shapes, fewer where they do not fit."""

    num_train: int = 400
    num_val: int = 100
    image_size: int = 128  # pixels, both sides
    seed: int = 0
    max_shapes: int = 5
    min_size: float = 0.12  # longer side of a shape before rotation, as a part of image_size
    max_size: float = 0.55
    max_overlap: float = 0.5  # part of a shape that later shapes and the frame may hide

    def __post_init__(self) -> None:
        for name, low in (
            ("num_train", 1),
            ("num_val", 1),
            ("image_size", 32),
            ("seed", 0),
            ("max_shapes", 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
        if not 0 < self.min_size <= self.max_size <= 0.7:
            raise ValueError(
                "sizes are parts of image_size and must satisfy 0 < min_size <= max_size <= 0.7, "
                f"got min_size={self.min_size} and max_size={self.max_size}"
            )
        if self.min_size * self.image_size < 6:
            raise ValueError(
                f"the smallest shape must be at least 6 pixels, got {self.min_size} * "
                f"{self.image_size} = {self.min_size * self.image_size:.1f}; "
                "raise min_size or image_size"
            )
        if not 0 <= self.max_overlap <= 0.9:
            raise ValueError(f"max_overlap must be between 0 and 0.9, got {self.max_overlap}")


@dataclass(frozen=True, eq=False)
class Sample:
    """One drawn image; instance k of `instances` has `categories[k - 1]` and `polygons[k - 1]`."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    instances: np.ndarray  # (H, W) int32, 0 is background
    categories: tuple[int, ...]  # 1..5, indices into CATEGORIES plus one
    polygons: tuple[list[np.ndarray], ...]  # visible part: arrays (points, 2) of x, y


@dataclass(frozen=True)
class ShapesDataset:
    """A dataset on disk: where everything is."""

    root: Path
    spec: ShapesSpec
    written: bool  # False when the folder already held this dataset

    def images(self, split: str) -> Path:
        """Folder of the images."""
        return self.root / "images" / _checked(split)

    def instances_json(self, split: str) -> Path:
        """COCO instances file."""
        return self.root / "annotations" / f"instances_{_checked(split)}.json"

    def panoptic_json(self, split: str) -> Path:
        """COCO panoptic file."""
        return self.root / "annotations" / f"panoptic_{_checked(split)}.json"

    def panoptic_masks(self, split: str) -> Path:
        """Folder of the panoptic PNGs."""
        return self.root / "panoptic" / _checked(split)

    def semantic_images(self, split: str) -> Path:
        """Folder of the images in the semantic layout."""
        return self.root / "semantic" / "images" / _SEMANTIC_SPLITS[_checked(split)]

    def semantic_masks(self, split: str) -> Path:
        """Folder of the label PNGs."""
        return self.root / "semantic" / "annotations" / _SEMANTIC_SPLITS[_checked(split)]

    @property
    def class_list(self) -> Path:
        """Names of the semantic labels."""
        return self.root / "semantic" / "objectInfo.txt"

    def counts(self, split: str) -> dict[str, int]:
        """Instances per category name."""
        annotations = json.loads(self.instances_json(split).read_text())["annotations"]
        found = Counter(annotation["category_id"] for annotation in annotations)
        return {name: found[number] for number, name in enumerate(CATEGORIES, 1)}


def draw(spec: ShapesSpec, split: str, index: int) -> Sample:
    """Draw image `index` of a split; it depends on nothing but the spec's seed and style."""
    rng = np.random.default_rng([spec.seed, SPLITS.index(_checked(split)), index])
    side = spec.image_size
    canvas = _paint(rng, (side, side), rng.uniform(0.15, 0.75, 3), contrast=0.2)
    instances = np.zeros((side, side), np.int32)
    shapes: list[_Shape] = []
    for _ in range(rng.integers(1, spec.max_shapes + 1)):
        shape = _place(rng, spec, instances, shapes)
        if shape is not None:
            _render(rng, canvas, shape)
            shapes.append(shape)
            instances[shape.window][shape.mask] = len(shapes)
    canvas += rng.normal(0, rng.uniform(0.005, 0.035), (side, side, 1))
    return Sample(
        image=(canvas.clip(0, 1) * 255).round().astype(np.uint8),
        instances=instances,
        categories=tuple(shape.category for shape in shapes),
        polygons=tuple(_polygons(shape, instances == k) for k, shape in enumerate(shapes, 1)),
    )


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Outline a binary mask along pixel edges, as polygons without holes that cover it exactly."""
    loops = _boundary_loops(mask.astype(bool))
    hole = next((loop for loop in loops if _signed_area(loop) < 0), None)
    if hole is None:
        return loops
    # COCO polygons know no holes: cut the mask in two through this one, which opens it.
    cut = int(hole[:, 0].mean())
    right = [polygon + np.array([cut, 0]) for polygon in trace(mask[:, cut:])]
    return trace(mask[:, :cut]) + right


def write(root: str | Path, spec: ShapesSpec, *, overwrite: bool = False) -> ShapesDataset:
    """Write the dataset, or find it already there; only `overwrite` replaces another one."""
    root = Path(root).resolve()
    record = {**FORMAT, "spec": asdict(spec)}
    if _exists(root, record, overwrite):
        logger.info("%s already holds this dataset; nothing to do", root)
        return ShapesDataset(root, spec, written=False)

    root.parent.mkdir(parents=True, exist_ok=True)
    # Drawn next to the destination and moved there whole: an interrupted run leaves no dataset.
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as work:
        unfinished = ShapesDataset(Path(work) / root.name, spec, written=True)
        for split, count in zip(SPLITS, (spec.num_train, spec.num_val), strict=True):
            _write_split(unfinished, split, count)
        _write_class_list(unfinished.class_list)
        (unfinished.root / SPEC_FILE).write_text(json.dumps(record, indent=2) + "\n")
        if root.exists():
            shutil.rmtree(root)
        unfinished.root.rename(root)
    return ShapesDataset(root, spec, written=True)


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


def _checked(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return split


# Geometry


def _outline(rng: np.random.Generator, category: int) -> np.ndarray:
    """Return the outline of a category, about one unit large around the origin."""
    name = CATEGORIES[category - 1]
    if name == "circle":
        return 0.5 * _polar(40)
    if name == "square":
        return np.sqrt(0.5) * _polar(4, start=np.pi / 4)
    if name == "triangle":
        return 0.58 * _polar(3)
    if name == "star":
        radii = np.tile([0.55, 0.55 * rng.uniform(0.4, 0.5)], 5)
        return radii[:, None] * _polar(10)
    arm = 0.5 * rng.uniform(0.28, 0.4)  # half the width of the bars of a cross
    corner = np.array([(0.5, -arm), (0.5, arm), (arm, arm)])
    quarter_turn = np.array([(0, 1), (-1, 0)])
    return np.concatenate([corner @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)])


def _polar(count: int, start: float = 0.0) -> np.ndarray:
    """Points on the unit circle."""
    angle = start + 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _place(
    rng: np.random.Generator, spec: ShapesSpec, instances: np.ndarray, placed: list[_Shape]
) -> _Shape | None:
    """Try positions until the new shape and all those below it stay visible enough."""
    keep = 1 - spec.max_overlap
    areas = np.array([0, *(shape.area for shape in placed)])
    visible = np.bincount(instances.ravel(), minlength=len(areas))
    for _ in range(_PLACE_TRIES):
        shape = _random_shape(rng, spec)
        hidden = np.bincount(instances[shape.window][shape.mask], minlength=len(areas))
        if shape.mask.sum() >= keep * shape.area and np.all(
            (visible - hidden)[1:] >= keep * areas[1:]
        ):
            return shape
    return None


def _random_shape(rng: np.random.Generator, spec: ShapesSpec) -> _Shape:
    """Choose category, size (log-uniform), aspect, rotation, position and border."""
    side = spec.image_size
    category = int(rng.integers(1, len(CATEGORIES) + 1))
    size = side * math.exp(rng.uniform(math.log(spec.min_size), math.log(spec.max_size)))
    margin = size * (1 - spec.max_overlap) / 2
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    unit = _outline(rng, category) * (1, rng.uniform(0.75, 1))
    outline = size * unit @ rotation + rng.uniform(margin, side - margin, 2)
    border = rng.uniform(0.05, 0.09) * size if rng.random() < 0.4 else 0.0
    return _rasterise(category, outline.round(2), max(1.0, border) if border else 0.0, side)


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
    """Average the sub-pixels of each pixel, to 0..1."""
    return np.asarray(fine.reduce(_SUPERSAMPLE), dtype=np.float64) / 255


def _polygons(shape: _Shape, visible: np.ndarray) -> list[np.ndarray]:
    """Polygons of the visible part: the drawn outline where nothing is hidden, else a trace."""
    return [shape.outline] if visible.sum() == shape.area else trace(visible)


def _boundary_loops(mask: np.ndarray) -> list[np.ndarray]:
    """Follow the pixel edges around a mask; outer loops have positive area, holes negative."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    edges = {
        (x + corner_x, y + corner_y, step_x, step_y): None
        for (dx, dy), (corner_x, corner_y), (step_x, step_y) in _SIDES
        for y, x in np.argwhere(
            mask & ~padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        ).tolist()
    }
    remaining = dict(edges)  # a dict, not a set, for its order
    loops = []
    while remaining:
        edge = next(iter(remaining))
        loop = []
        while edge in remaining:
            del remaining[edge]
            following = _following(edge, edges)
            if following[2:] != edge[2:]:
                loop.append(following[:2])
            edge = following
        loops.append(np.array(loop))
    return loops


def _following(
    edge: tuple[int, int, int, int], edges: dict[tuple[int, int, int, int], None]
) -> tuple[int, int, int, int]:
    """Return the edge after this one; where two pixels touch by a corner, stay with this one."""
    x, y, dx, dy = edge
    turns = ((-dy, dx), (dx, dy), (dy, -dx))  # right first
    return next(e for turn in turns if (e := (x + dx, y + dy, *turn)) in edges)


def _signed_area(loop: np.ndarray) -> float:
    """Area by the shoelace formula, positive when clockwise on the screen."""
    x, y = loop.T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


# Paint


def _render(rng: np.random.Generator, canvas: np.ndarray, shape: _Shape) -> None:
    """Paint a shape over the canvas: textured fill, light from one side, sometimes a border."""
    below = canvas[shape.window]
    base = _distinct_colour(rng, below[shape.mask].mean(axis=0))
    fill = _paint(rng, shape.mask.shape, base, contrast=0.25)
    fill += 0.25 * (_gradient(rng, shape.mask.shape)[..., None] - 0.5)
    rim_colour = base * 0.35 if rng.random() < 0.6 else base + 0.7 * (1 - base)
    fill += shape.rim[..., None] * (rim_colour - fill)
    below += shape.alpha[..., None] * (fill.clip(0, 1) - below)


def _distinct_colour(rng: np.random.Generator, other: np.ndarray) -> np.ndarray:
    """Return, of four random colours, the one farthest from another colour."""
    colours = rng.random((4, 3))
    return colours[np.linalg.norm(colours - other, axis=1).argmax()]


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


# Files


def _exists(root: Path, record: dict[str, object], overwrite: bool) -> bool:
    """Tell whether the root holds this very dataset; raise where writing would do damage."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = _read_record(root)
    if found is None:
        raise ValueError(
            f"{root} exists and is not a shapes dataset (no {SPEC_FILE} of this module in it); "
            "it is left alone, choose another folder"
        )
    if overwrite:
        return False
    if found == record:
        return True
    raise ValueError(
        f"{root} holds another shapes dataset ({_differences(found, record)}); "
        "pass overwrite=True (--overwrite) to replace it, or choose another folder"
    )


def _read_record(root: Path) -> dict[str, object] | None:
    """Read spec.json, or return None where there is none of this module."""
    try:
        record = json.loads((root / SPEC_FILE).read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(record, dict) and record.get("dataset") == FORMAT["dataset"]
    return record if ours and isinstance(record.get("spec"), dict) else None


def _differences(found: dict[str, object], wanted: dict[str, object]) -> str:
    """Say which fields differ, for the error message."""
    old, new = ({"version": r.get("version"), **r["spec"]} for r in (found, wanted))
    return ", ".join(
        f"{key} is {old.get(key)} there and {new.get(key)} here"
        for key in {**new, **old}
        if old.get(key) != new.get(key)
    )


def _write_split(dataset: ShapesDataset, split: str, count: int) -> None:
    """Draw and write all files of one split."""
    for folder in (dataset.images, dataset.panoptic_masks, dataset.semantic_images):
        folder(split).mkdir(parents=True)
    dataset.semantic_masks(split).mkdir(parents=True)
    dataset.instances_json(split).parent.mkdir(exist_ok=True)
    images, instances, panoptic = [], [], []
    for index in range(count):
        sample = draw(dataset.spec, split, index)
        height, width = sample.instances.shape
        name = f"{index:06d}.png"
        _write_images(dataset, split, name, sample)
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        segments = _segments(sample)
        panoptic.append({"image_id": index + 1, "file_name": name, "segments_info": segments})
        for segment, polygons in zip(segments, sample.polygons, strict=False):  # things come first
            flat = [polygon.ravel().tolist() for polygon in polygons]
            ids = {"id": len(instances) + 1, "image_id": index + 1}
            instances.append({**segment, **ids, "segmentation": flat})
    things, everything = _categories(), [*_categories(), _background_category()]
    _write_json(dataset.instances_json(split), dataset.spec, images, instances, things)
    _write_json(dataset.panoptic_json(split), dataset.spec, images, panoptic, everything)


def _write_images(dataset: ShapesDataset, split: str, name: str, sample: Sample) -> None:
    """Write the image and its panoptic and semantic masks."""
    image = dataset.images(split) / name
    Image.fromarray(sample.image).save(image)
    _link(image, dataset.semantic_images(split) / name)
    ids = np.array([_segment_id(k) for k in range(len(sample.categories) + 1)])[sample.instances]
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(dataset.panoptic_masks(split) / name)
    labels = np.array([_BACKGROUND_ID, *sample.categories], np.uint8)[sample.instances]
    Image.fromarray(labels).save(dataset.semantic_masks(split) / name)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _segment_id(instance: int) -> int:
    return (instance + 1) * _ID_STRIDE % 2**24


def _segments(sample: Sample) -> list[dict[str, object]]:
    """Describe the segments of an image in COCO's terms: its things in order, then background."""
    numbers = [*range(1, len(sample.categories) + 1), 0]
    categories = [*sample.categories, _BACKGROUND_ID]
    segments = []
    for number, category in zip(numbers, categories, strict=True):
        rows, columns = np.nonzero(sample.instances == number)
        if not len(rows):  # only the background can be hidden altogether
            continue
        left, top = int(columns.min()), int(rows.min())
        bbox = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        segments.append(
            {
                "id": _segment_id(number),
                "category_id": category,
                "area": len(rows),
                "bbox": bbox,
                "iscrowd": 0,
            }
        )
    return segments


def _categories() -> list[dict[str, object]]:
    """List the categories of things in COCO's terms."""
    return [
        {"id": number, "name": name, "supercategory": "shape", "isthing": 1}
        for number, name in enumerate(CATEGORIES, 1)
    ]


def _background_category() -> dict[str, object]:
    return {"id": _BACKGROUND_ID, "name": BACKGROUND, "supercategory": BACKGROUND, "isthing": 0}


def _write_json(
    path: Path,
    spec: ShapesSpec,
    images: list[dict[str, object]],
    annotations: list[dict[str, object]],
    categories: list[dict[str, object]],
) -> None:
    """Write one annotation file."""
    content = {
        # No date: the same spec gives the same bytes.
        "info": {"description": f"Drawn shapes, seed {spec.seed}", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path.write_text(json.dumps(content, separators=(",", ":")))


def _write_class_list(path: Path) -> None:
    rows = ["Idx\tName", *(f"{i}\t{name}" for i, name in enumerate((*CATEGORIES, BACKGROUND), 1))]
    path.write_text("\n".join(rows) + "\n")
