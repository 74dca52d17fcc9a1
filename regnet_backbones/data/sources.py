"""What `FORMAT:PATH` names: custom data as COCO jsons, in a folder of the caller's.

    coco:FILE,IMAGES      a COCO json, and the folder of its images
    yolo:FILE             a data.yaml; yolo:FILE,ENTRY takes another entry than the part's
    voc:FOLDER            Pascal VOC; voc:FOLDER,LIST takes a list in ImageSets/Main
    labelme:FOLDER        labelme's files, next to their images or with the way to them

What is read is left as it is.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from regnet_backbones.data import splits
from regnet_backbones.data.coco import CocoJson, read_coco_json, write_coco_json
from regnet_backbones.data.formats import LISTS, READERS, LabelledData, LabelledImage
from regnet_backbones.errors import MissingFileError, UserError

FORMATS = ("coco", *READERS)
FORMS = "coco:FILE,IMAGES, yolo:data.yaml, voc:FOLDER or labelme:FOLDER"
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Source:
    """A dataset that a command line names.

    Attributes:
        format: one of `FORMATS`.
        path: the file or folder.
        detail: image folder of "coco", entry of a data.yaml, list of VOC, or "".
    """

    format: str
    path: Path
    detail: str = ""


@dataclass(frozen=True)
class Dataset:
    """A COCO json and its images.

    Attributes:
        content: of the json; empty if it was only looked for.
        images: the folder that file names are relative to.
        file: the json, if it is one on disk.
    """

    content: CocoJson = field(repr=False)
    images: Path
    file: Path | None = None


def parse_source(text: str) -> Source:
    """Return the source that a command line names; nothing of it is read.

    Args:
        text: `coco:FILE,IMAGES`, `yolo:FILE`, `voc:FOLDER` or `labelme:FOLDER`; of YOLO and Pascal
            VOC also with an entry or a list, `yolo:FILE,NAME`.

    Raises:
        UserError: it has none of these forms.
    """
    name, colon, rest = text.partition(":")
    if not colon or name not in FORMATS or not rest:
        raise UserError(f"data must be {FORMS}, got '{text}'")
    path, detail = Path(rest).expanduser(), ""
    if name == "coco" or ("," in rest and not path.exists()):
        before, comma, detail = rest.rpartition(",")
        if not comma or not before or not detail:
            raise UserError(f"COCO data must be coco:FILE,IMAGES, got '{text}'")
        path = Path(before).expanduser()
        if name != "coco" and Path(detail).name != detail:
            raise UserError(f"'{text}' needs the name of an entry or list after the comma")
    return Source(name, path, detail)


def read_parts(sources: Mapping[str, Source], *, read_jsons: bool = True) -> dict[str, Dataset]:
    """Return datasets by part ("train", "val", ...), with the same classes in all.

    Args:
        sources: by part, whose name is the entry or list of a source without a detail.
        read_jsons: whether COCO jsons are read, too, or only looked for.

    Raises:
        UserError: a file is missing or invalid, or two parts are the same data.
    """
    found: dict[str, Dataset] = {}
    labelled: dict[str, LabelledData] = {}
    seen: dict[tuple[str, str, str], str] = {}
    for part, source in sources.items():
        detail = source.detail or _detail_of(source, part)
        key = (source.format, os.path.realpath(source.path), detail)
        if source.format == "coco":
            key = (*key[:2], "")
        if (other := seen.setdefault(key, part)) != part:
            text = f"{other} and {part} are the same data, '{source.path}'"
            raise UserError(f"{text}; use different data, or split them with --val-fraction")
        if source.format == "coco":
            found[part] = _read_coco(source, read_jsons)
        else:
            labelled[part] = READERS[source.format](source.path, detail)
    for part, data in labelled.items():
        same = [other for other in labelled.values() if not (other.ordered or data.ordered)]
        names = {name for other in same for name in other.classes}
        found[part] = to_coco(data, data.classes if data.ordered else tuple(sorted(names)))
    return {part: found[part] for part in sources}


def read_and_split(source: Source, fraction: float, seed: int, group: str | None) -> dict:
    """Read a source, for "train", and return the two parts of `splits.split`."""
    whole = read_parts({"train": source})["train"]
    parts = splits.split(whole.content, fraction, seed=seed, group=group)
    return {part: Dataset(content, whole.images) for part, content in parts.items()}


def parts_of(source: Source) -> dict[str, Source]:
    """Return all parts of a source, by name: those that its data.yaml or its lists have."""
    if source.detail or source.format in ("coco", "labelme"):
        is_list = source.detail and source.format != "coco"
        return {source.detail if is_list else "instances": source}
    if source.format == "voc":
        names = [part for part in PARTS if (source.path / LISTS / f"{part}.txt").is_file()]
    else:
        from regnet_backbones.runs.yaml_files import read_yaml

        if not source.path.is_file():
            raise MissingFileError(f"no file '{source.path}'; correct the path")
        given = read_yaml(source.path)
        names = [part for part in PARTS if isinstance(given, dict) and given.get(part)]
    return dict.fromkeys(names, source) or {"instances": source}


def to_coco(data: LabelledData, classes: tuple[str, ...]) -> Dataset:
    """Return images with their objects as a COCO json: ids from 1, in the order of the classes."""
    root = os.path.commonpath([os.path.dirname(os.path.abspath(i.path)) for i in data.images])
    numbers = {name: number for number, name in enumerate(classes, 1)}
    images, annotations = [], []
    for number, image in enumerate(data.images, 1):
        images.append(_image_entry(number, image, root))
        for item in image.objects:
            x, y, w, h = item.box
            area = sum(map(_area, item.polygons)) if item.polygons else w * h
            entry = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0}
            entry |= {"category_id": numbers[item.label], "bbox": [x, y, w, h], "area": area}
            if item.polygons:
                entry["segmentation"] = [list(polygon) for polygon in item.polygons]
            annotations.append(entry)
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return Dataset(content, Path(root))


def write_parts(parts: Mapping[str, Dataset], folder: Path) -> dict[str, Path]:
    """Write what is not on disk as `<part>-<digest>.json`; a digest is of one content.

    A run that is resumed, or another process, finds the same files.
    """
    files = {}
    for part, dataset in parts.items():
        if dataset.file is not None:
            files[part] = dataset.file
            continue
        digest = hashlib.sha256(json.dumps(dataset.content).encode()).hexdigest()[:12]
        files[part] = folder.absolute() / f"{part}-{digest}.json"
        if not files[part].is_file():
            write_coco_json(files[part], dataset.content)
    return files


def write_new(parts: Mapping[str, Dataset], folder: Path) -> dict[str, Path]:
    """Write each part as `<part>.json`; raise UserError if there is a file of that name."""
    files = {part: folder / f"{part}.json" for part in parts}
    if existing := [str(file) for file in files.values() if os.path.lexists(file)]:
        raise UserError(f"'{existing[0]}' exists; remove it, or choose another folder")
    for part, file in files.items():
        write_coco_json(file, parts[part].content)
    return files


def _detail_of(source: Source, part: str) -> str:
    """Return what a part of a source is called in it."""
    if source.format == "yolo":
        return part
    has_lists = source.format == "voc" and (source.path / LISTS).is_dir()
    return part if has_lists and part in PARTS else ""


def _read_coco(source: Source, read: bool) -> Dataset:
    images = Path(source.detail).expanduser()
    if not source.path.is_file():
        raise MissingFileError(f"no annotation file '{source.path}'")
    content = read_coco_json(source.path) if read else {}
    if not images.is_dir():
        raise MissingFileError(f"no image folder '{images}'; correct the path")
    return Dataset(content, images.absolute(), source.path.absolute())


def _image_entry(number: int, image: LabelledImage, root: str) -> dict:
    name = Path(os.path.abspath(image.path)).relative_to(root).as_posix()
    return {"id": number, "file_name": name, "width": image.width, "height": image.height}


def _area(polygon: tuple[float, ...]) -> float:
    """Return the area of a polygon by the shoelace formula."""
    xs, ys = polygon[::2], polygon[1::2]
    ends = zip(xs, ys, (*xs[1:], xs[0]), (*ys[1:], ys[0]), strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in ends)) / 2
