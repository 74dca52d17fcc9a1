"""Read YOLO, Pascal VOC and labelme: the objects in each image, by the names of their classes.

- YOLO: https://docs.ultralytics.com/datasets/detect/, boxes, polygons and oriented boxes, each
  relative to the image.
- Pascal VOC: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/, pixels counted from 1, the
  last one inside the box.
- labelme: https://github.com/wkentaro/labelme, polygons and rectangles.

Boxes and classes are the same as in the package supervision, which keeps polygons only as masks of
the whole image, decodes the images of Pascal VOC, and skips unknown entries.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers.expat import ExpatError

from PIL import Image

from regnet_backbones.errors import (
    MissingFileError,
    MissingPackageError,
    UserError,
    as_user_error,
)
from regnet_backbones.files import files_below, read_json, read_text
from regnet_backbones.runs import image_files
from regnet_backbones.runs.yaml_files import read_yaml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

# In the folder of Pascal VOC or labelme: the names of the classes in their order, one a line.
CLASS_FILES = ("classes.txt", "labels.txt")
NOT_CLASSES = ("__ignore__", "_background_")  # first lines of labelme's

# Beyond the border of its image by up to so many pixels, or this part of the side, a box is taken
# as it is.
ROUNDING, SLACK = 1.0, 0.02

LISTS = "ImageSets/Main"  # of Pascal VOC: which images are for training, one name a line
CORNERS = ("xmin", "ymin", "xmax", "ymax")

Box = tuple[float, float, float, float]  # x, y, width and height in pixels
Polygon = tuple[float, ...]  # x and y in turn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledObject:
    """An object in an image: its class, its box, and its outline if the format has one."""

    label: str
    box: Box
    polygons: tuple[Polygon, ...] = ()


@dataclass(frozen=True)
class LabelledImage:
    """An image file, its size in pixels, and the objects in it."""

    path: Path
    width: int
    height: int
    objects: tuple[LabelledObject, ...]


@dataclass(frozen=True)
class LabelledData:
    """Images with their objects: at least one."""

    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...]
    source: Path  # the file or folder that was read
    ordered: bool = True  # a file has the classes in their order; else they are sorted labels

    def __post_init__(self) -> None:
        for image in self.images:
            for item in image.objects:
                if item.label not in self.classes:
                    allowed = f"the classes of '{self.source}': {', '.join(self.classes)}"
                    raise UserError(f"'{image.path}': class '{item.label}' is not one of {allowed}")


def read_yolo(path: Path, part: str) -> LabelledData:
    """Read the images that an entry of a `data.yaml` names, such as `train`, and their labels.

    An image without a label file has no objects, as in Ultralytics.
    """
    if not path.is_file():
        raise MissingFileError(f"no file '{path}'; pass the data.yaml of the YOLO dataset")
    given = read_yaml(path)
    if not isinstance(given, dict):
        raise UserError(f"'{path}' needs 'names' and '{part}'")
    if given.get("kpt_shape") is not None:
        raise UserError(f"'{path}': keypoints (kpt_shape) are not supported; use a COCO json")
    names = _yolo_names(path, given)
    images = list(_yolo_images(path, given, part))
    if not images:
        raise UserError(f"'{path}': '{part}' ({given[part]}) has no images")
    labels = [_yolo_label_file(image) for image in images]
    if not any(label.is_file() for label in labels):
        text = f"none of the {len(images)} images of '{part}' has a label file"
        raise UserError(f"'{path}': {text}, such as '{labels[0]}'")
    with ThreadPoolExecutor(image_files.CHECK_THREADS) as pool:
        sizes = list(pool.map(image_size, images))
    found = (
        LabelledImage(image, *size, tuple(_yolo_objects(label, names, size)))
        for image, label, size in zip(images, labels, sizes, strict=True)
    )
    return LabelledData(tuple(found), names, path)


def read_voc(path: Path, part: str) -> LabelledData:
    """Read a folder of Pascal VOC: `Annotations` and `JPEGImages`, or both in one folder.

    `part` is a list in `ImageSets/Main`, such as "train"; "" for all annotations.
    """
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    _check_folder(path)
    found = [file for file in files_below(folder) if _is_a(file, ".xml")]
    every = {file.stem: file for file in found if file.parent == folder}
    if not every:
        raise UserError(f"no Pascal VOC annotations (*.xml) in '{folder}'; correct the path")
    if nested := [file for file in found if file.parent != folder]:
        text = "%d annotations in folders below '%s' are not read, such as '%s'; move them up"
        logger.warning(text, len(nested), folder, nested[0])
    chosen = list(every)
    if part:
        listed = path / LISTS / f"{part}.txt"
        if not listed.is_file():
            there = ", ".join(sorted(file.stem for file in listed.parent.glob("*.txt"))) or "none"
            raise MissingFileError(f"no list '{listed}'; pass voc:FOLDER,LIST with one of: {there}")
        chosen = _lines(listed)
        if missing := [(n, name) for n, name in enumerate(chosen, 1) if name not in every]:
            number, name = missing[0]
            raise UserError(f"'{listed}', line {number}: no annotation '{folder / name}.xml'")
        if not chosen:
            raise UserError(f"'{listed}' names no images")
    folders = [place for place in (path / "JPEGImages", path / "images", folder) if place.is_dir()]
    files = [file for place in folders for file in sorted(place.iterdir())]
    pictures = {file.stem: file for file in reversed(files) if _is_a(file, *image_files.SUFFIXES)}
    images = [_voc_image(every[stem], folders, pictures) for stem in chosen]
    # The same classes in all lists of a folder.
    others = [_xml(every[stem]) for stem in every.keys() - set(chosen)]
    labels = {(name.text or "").strip() for tree in others for name in tree.iterfind("object/name")}
    return _of_folder(images, path, labels - {""})


def read_labelme(path: Path, part: str) -> LabelledData:
    """Read the labelme files below a folder; shapes of one label and `group_id` are one object."""
    if part:
        raise UserError(f"labelme has no lists of images, got '{part}'; pass a folder alone")
    _check_folder(path)
    files = [file for file in files_below(path) if _is_a(file, ".json")]
    if not files:
        raise UserError(f"no labelme files (*.json) in '{path}'; correct the path")
    return _of_folder([_labelme_image(file) for file in files], path)


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image, turned by its EXIF data, without decoding it."""
    try:
        with Image.open(path) as image:
            return image_files.upright_size(image)
    except image_files.UNREADABLE as error:
        raise UserError(f"image '{path}' cannot be read ({error}); replace or remove it") from error


def _is_a(file: Path, *suffixes: str) -> bool:
    return file.suffix.lower() in suffixes and not file.name.startswith(".")


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise MissingFileError(f"no folder '{path}'; correct the path")


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _of_folder(
    images: Sequence[LabelledImage], folder: Path, others: Iterable[str] = ()
) -> LabelledData:
    """Return images with the classes that a file in the folder names, or else all there are."""
    for file in (folder / name for name in CLASS_FILES):
        if file.is_file():
            names = tuple(line for line in _lines(file) if line not in NOT_CLASSES)
            return LabelledData(tuple(images), names, file)
    labels = {item.label for image in images for item in image.objects}.union(others)
    return LabelledData(tuple(images), tuple(sorted(labels)), folder, ordered=False)


def _number(text: object, place: str, what: str) -> float:
    """Return a finite number that a file has as text or as a number."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or isinstance(text, bool):
        raise UserError(f"{place}: {what} must be a finite number, got {str(text)[:40]!r}")
    return value


def _object(
    label: str, box: Box | None, polygons: Sequence[Polygon], size: tuple[int, int], place: str
) -> LabelledObject:
    """Check the box of an object, which is that of its polygons if there is none."""
    if box is None:
        xs, ys = ([v for p in polygons for v in p[start::2]] for start in (0, 1))
        box = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    x, y, w, h = box
    shown = f"box {x:g}, {y:g}, {x + w:g}, {y + h:g} (left, top, right, bottom)"
    if w <= 0 or h <= 0:
        raise UserError(f"{place}: {shown} has no area")
    beyond = [(-x, w, size[0]), (x + w - size[0], w, size[0])]
    beyond += [(-y, h, size[1]), (y + h - size[1], h, size[1])]
    if any(out >= side or out > max(ROUNDING, SLACK * whole) for out, side, whole in beyond):
        raise UserError(f"{place}: {shown} is outside its image of {size[0]}x{size[1]} pixels")
    return LabelledObject(label, box, tuple(polygons))


# YOLO


def _yolo_names(path: Path, given: Mapping) -> tuple[str, ...]:
    """Return the names of the classes in the order of their numbers."""
    names = given.get("names")
    if isinstance(names, dict):
        by_number = {str(number): name for number, name in names.items()}
        if by_number.keys() != {str(number) for number in range(len(names))}:
            numbers = list(names)[:8]
            raise UserError(f"'{path}': numbers of 'names' must be 0, 1, 2, ..., got {numbers}")
        names = [by_number[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"'{path}': 'names' must list the classes, got {names!r}")
    for name in names:
        if not isinstance(name, str | int | float) or isinstance(name, bool) or name == "":
            rule = "'names' must be text; put names such as no, yes and null in quotes"
            raise UserError(f"'{path}': {rule}, got {name!r}")
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise UserError(f"'{path}': 'names' has a name twice: {', '.join(names[:20])}")
    count = given.get("nc", len(names))
    if count != len(names):
        raise UserError(f"'{path}': nc must be {len(names)}, the length of 'names', got {count}")
    return tuple(names)


def _yolo_images(path: Path, given: Mapping, part: str) -> Iterator[Path]:
    """Find the images of an entry: folders, or text files with a path a line."""
    entries = given.get(part)
    entries = [entries] if isinstance(entries, str) else entries
    if not isinstance(entries, list) or not all(isinstance(e, str) and e for e in entries):
        parts = [key for key in ("train", "val", "test") if given.get(key)]
        there = f"the file has {', '.join(parts) or 'none of train, val and test'}"
        rule = f"'{part}' must be a folder of images or a list of them"
        raise UserError(f"'{path}': {rule}, got {given.get(part)!r}; {there}")
    root = path.parent / Path(str(given.get("path") or "")).expanduser()
    for entry in entries:
        place = root / entry
        if not place.exists() and entry.startswith("../"):  # Roboflow's, one folder too high
            place = root / entry.removeprefix("../")
        if place.is_dir():
            found = [file for file in files_below(place) if _is_a(file, *image_files.SUFFIXES)]
            _warn_of_unused_labels(place, found)
            yield from found
        elif place.is_file():
            for number, line in enumerate(read_text(place).splitlines(), 1):
                if not line.strip():
                    continue
                image = place.parent / line.strip()
                if not image.is_file():
                    image = root / line.strip()
                if not image.is_file():
                    raise MissingFileError(f"'{place}', line {number}: no image '{image}'")
                yield image
        else:
            raise MissingFileError(f"'{path}': '{part}' does not exist: '{place}'")


def _yolo_label_file(image: Path) -> Path:
    """Return where the labels of an image are: in `labels` for `images`, else next to it."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _warn_of_unused_labels(folder: Path, images: Iterable[Path]) -> None:
    """Log which label files of a folder of images have no image there that is read."""
    place, used = _yolo_label_file(folder / "any").parent, set(map(_yolo_label_file, images))
    files = files_below(place) if place.is_dir() else ()
    labels = [file for file in files if file.suffix == ".txt" and file.name not in CLASS_FILES]
    if unused := [str(file) for file in labels if file not in used]:
        text = "%d label files have no image (%s) in '%s' and are not used, such as '%s'"
        logger.warning(text, len(unused), ", ".join(image_files.SUFFIXES), folder, unused[0])


def _yolo_objects(
    labels: Path, names: Sequence[str], size: tuple[int, int]
) -> Iterator[LabelledObject]:
    """Read a label file: a class and a box, or a class and the points of a polygon, a line."""
    lines = read_text(labels).splitlines() if labels.is_file() else []
    for number, line in enumerate(lines, 1):
        if not (words := line.split()):
            continue
        place = f"'{labels}', line {number}"
        if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
            rule = "class x y width height, or class x1 y1 x2 y2 ... of 3 or more points"
            raise UserError(f"{place}: a line must be {rule}, got {len(words)} columns")
        index, *values = (_number(word, place, "a column") for word in words)
        if index not in range(len(names)):
            raise UserError(f"{place}: class {words[0]} is not one of 0 to {len(names) - 1}")
        pixels = [value * size[i % 2] for i, value in enumerate(values)]
        box, polygons = None, [tuple(pixels)]
        if len(words) == 5:
            x, y, w, h = pixels
            box, polygons = (x - w / 2, y - h / 2, w, h), []
        yield _object(names[int(index)], box, polygons, size, place)


# Pascal VOC


def _xml(path: Path) -> "Element":
    """Read an XML file; entities and other declarations are refused."""
    try:
        from defusedxml import DefusedXmlException, ElementTree
    except ModuleNotFoundError as error:
        text = "Pascal VOC needs defusedxml: `pip install 'regnet-backbones[data]'`"
        raise MissingPackageError(text, name=error.name) from error
    errors = (DefusedXmlException, ElementTree.ParseError, ExpatError, LookupError, ValueError)
    with as_user_error(*errors, prefix=f"'{path}' is not an annotation of Pascal VOC: "):
        return ElementTree.parse(path, forbid_dtd=True).getroot()


def _voc_image(path: Path, folders: Sequence[Path], named: Mapping[str, Path]) -> LabelledImage:
    """Read an annotation and find its image, in folders or by its own name in `named`."""
    tree = _xml(path)
    image = _voc_image_file(path, tree.findtext("filename") or "", folders, named)
    given = [tree.findtext(f"size/{side}") or "0" for side in ("width", "height")]
    width, height = (int(_number(side, f"'{path}'", "a side in <size>")) for side in given)
    size = (width, height) if min(width, height) > 0 else image_size(image)
    objects = []
    for number, item in enumerate(tree.findall("object"), 1):
        place, label = f"'{path}', object {number}", (item.findtext("name") or "").strip()
        if not label:
            raise UserError(f"{place}: <name> is missing")
        left, top, right, bottom = (
            _number(item.findtext(f"bndbox/{corner}"), place, corner) for corner in CORNERS
        )
        box = (left - 1, top - 1, right - left + 1, bottom - top + 1)
        polygons = [_voc_polygon(polygon, place) for polygon in item.findall("polygon")]
        objects.append(_object(label, box, polygons, size, place))
    return LabelledImage(image, *size, tuple(objects))


def _voc_image_file(
    path: Path, name: str, folders: Sequence[Path], named: Mapping[str, Path]
) -> Path:
    """Find the image of an annotation: that of its own name, or else of the name in it.

    The name in it is wrong where files were renamed, and distinguishes two images of one stem.
    """
    name = name.strip().replace("\\", "/").rpartition("/")[2] or path.stem
    given = next((folder / name for folder in folders if (folder / name).is_file()), None)
    own = named.get(path.stem)
    image = own if given is None or (own and given.stem != path.stem) else given
    if image is None:
        raise MissingFileError(f"'{path}': no image '{name}' in '{folders[0]}'")
    return image


def _voc_polygon(polygon: "Element", place: str) -> Polygon:
    """Return the points of a `<polygon>` with x1, y1, x2, ... in it."""
    points = tuple(_number(point.text, place, f"<{point.tag}>") - 1 for point in polygon)
    return _whole_polygon(points, place)


def _whole_polygon(points: Polygon, place: str) -> Polygon:
    if len(points) < 6 or len(points) % 2:
        raise UserError(f"{place}: a polygon must have 3 points or more, got {len(points) / 2:g}")
    return points


# labelme


def _labelme_image(path: Path) -> LabelledImage:
    """Read a labelme file and find its image."""
    given = read_json(path)
    shapes = given.get("shapes") if isinstance(given, dict) else None
    if not isinstance(shapes, list):
        raise UserError(f"'{path}' is not a labelme file: it has no 'shapes'; remove it")
    name = str(given.get("imagePath") or "").replace("\\", "/")
    image = path.parent / name
    if not image.is_file():  # moved, both together
        image = path.with_name(Path(name).name or path.stem)
    if not image.is_file():
        raise MissingFileError(f"'{path}': no image '{name}' (imagePath)")
    size = given.get("imageWidth"), given.get("imageHeight")
    if not all(type(side) is int and side > 0 for side in size):
        size = image_size(image)
    groups: dict[object, tuple[str, list[Polygon], str]] = {}
    for number, shape in enumerate(shapes, 1):
        label, polygon, place = _labelme_shape(shape, f"'{path}', shape {number}")
        group = shape.get("group_id")
        key = number if group is None else (label, str(group))
        groups.setdefault(key, (label, [], place))[1].append(polygon)
    objects = (_object(label, None, parts, size, where) for label, parts, where in groups.values())
    return LabelledImage(image, *size, tuple(objects))


def _labelme_shape(shape: object, place: str) -> tuple[str, Polygon, str]:
    """Return the label and the points of a shape, and how messages call it."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip():
        raise UserError(f"{place}: 'label' is missing")
    label, kind = label.strip(), shape.get("shape_type") or "polygon"
    place = f"{place} ({label})"
    if kind not in ("polygon", "rectangle"):
        raise UserError(f"{place}: must be a polygon or a rectangle, got {str(kind)[:40]!r}")
    points = shape.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise UserError(f"{place}: 'points' must be a list of [x, y]")
    flat = tuple(_number(value, place, "a coordinate") for point in points for value in point)
    if kind == "rectangle" and len(points) == 2:
        (left, right), (top, bottom) = sorted(flat[::2]), sorted(flat[1::2])
        flat = (left, top, right, top, right, bottom, left, bottom)
    return label, _whole_polygon(flat, place), place


READERS: dict[str, Callable[[Path, str], LabelledData]] = {
    "yolo": read_yolo,
    "voc": read_voc,
    "labelme": read_labelme,
}
