"""Where images and masks are: in ADE20K, in Cityscapes, and in any pair of folders."""

import logging
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.runs.image_files import UNREADABLE
from regnet_backbones.semseg.labels import (
    IGNORE,
    Labels,
    check_class_names,
    first_of,
    lines_of,
)

logger = logging.getLogger(__name__)

Split = Literal["train", "val"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Of files that keep labels exactly. Where a folder has none, the check says what is wrong with it.
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")

# The name of CVAT's table of colours.
COLOR_TABLE = "labelmap.txt"

ADE20K_CLASSES = 150
ADE20K_FOLDERS = {"train": "training", "val": "validation"}
ADE20K_CLASS_FILES = ("objectInfo150.txt", "objectInfo.txt")

# The 19 classes of the benchmark in their order, and their label ids among the 34.
CITYSCAPES_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_LABELS = 34


@dataclass(frozen=True)
class Pairs:
    """The images of a split and their masks, in one order; files that `check_pairs` looks at."""

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.images)


def ade20k_pairs(root: str | Path, split: Split) -> Pairs:
    """Find the pairs of ADEChallengeData2016: label 0 is ignored, label k is class k - 1."""
    names = ade20k_class_names(root)
    classes = {0: IGNORE, IGNORE: IGNORE} | {k + 1: k for k in range(len(names))}
    images, masks = (Path(root, kind, ADE20K_FOLDERS[split]) for kind in ("images", "annotations"))
    return folder_pairs(images, masks, Labels(names, classes))


def ade20k_class_names(root: str | Path) -> tuple[str, ...]:
    """Read the names of ADE20K's classes, each up to its first comma where that tells them apart.

    Without a class file, which is a warning, these are 150 numbered classes.
    """
    _check_folder(Path(root), "dataset folder")
    paths = (Path(root, name) for name in ADE20K_CLASS_FILES)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        logger.warning("'%s' has none of %s: no names", root, ", ".join(ADE20K_CLASS_FILES))
        return tuple(f"class {k}" for k in range(ADE20K_CLASSES))
    rows = [re.split(r"\s*\t+", line) for line in lines_of(path, "class file")]
    rows = [row for row in rows if row[0] != "Idx"]
    if [row[0] for row in rows] != [str(k) for k in range(1, len(rows) + 1)]:
        raise UserError(f"class file '{path}' has no rows of a number from 1 on, tab, ..., name")
    names = [row[-1].strip() for row in rows]
    short = [name.split(",")[0].strip() for name in names]
    every = short if len(set(short)) == len(short) else names
    return check_class_names(every, source=f"class file '{path}'")


def cityscapes_pairs(root: str | Path, split: Split) -> Pairs:
    """Find the pairs of Cityscapes, with the benchmark's 19 classes.

    Masks are `*_gtFine_labelIds.png`, or `*_gtFine_labelTrainIds.png` where a split has only those.
    """
    images, masks = (Path(root, kind, split) for kind in ("leftImg8bit", "gtFine"))
    kinds = {
        "_gtFine_labelIds": dict.fromkeys((*range(CITYSCAPES_LABELS), IGNORE), IGNORE)
        | {label: k for k, label in enumerate(CITYSCAPES_IDS)},
        "_gtFine_labelTrainIds": {IGNORE: IGNORE} | {k: k for k in range(len(CITYSCAPES_IDS))},
    }
    suffix = next((kind for kind in kinds if any(masks.glob(f"*/*{kind}.png"))), min(kinds))
    labels = Labels(CITYSCAPES_NAMES, kinds[suffix])
    return folder_pairs(images, masks, labels, image_suffix="_leftImg8bit", mask_suffix=suffix)


def folder_pairs(
    images: str | Path,
    masks: str | Path,
    labels: Labels,
    *,
    image_suffix: str = "",
    mask_suffix: str = "",
    listed: Sequence[str] | None = None,
) -> Pairs:
    """Pair the images below one folder with the masks below another that have the same path.

    Suffixes are what names end in before that of the file, such as "_mask"; files without them are
    left out. `listed` are the images to take.
    """
    images, masks = Path(images), Path(masks)
    end = Path(mask_suffix).suffix
    mask_suffix = mask_suffix.removesuffix(end if end.lower() in MASK_SUFFIXES else "")
    mask_of = _files(masks, "mask", mask_suffix, other=images)
    # In a folder of both, what is a mask is not an image.
    taken = frozenset(mask_of.values())
    image_of = _files(images, "image", image_suffix, other=masks, without=taken)
    if listed is not None:
        image_of = _listed(image_of, listed, images)
    elif unused := [file.name for name, file in mask_of.items() if name not in image_of]:
        logger.warning(
            "%d masks of '%s' have no image in '%s' and are not used: %s",
            *(len(unused), masks, images, first_of(unused)),
        )
    if not image_of.keys() & mask_of.keys():
        names = (first_of([file.name for file in files.values()]) for files in (image_of, mask_of))
        raise UserError(
            "no image has a mask of its name in '{}': images are {}, masks {}; give what names of "
            "masks have after those of images as --data.mask_suffix".format(masks, *names)
        )
    paths = (mask_of.get(name, masks / f"{name}{mask_suffix}.png") for name in image_of)
    return Pairs(tuple(image_of.values()), tuple(paths), labels)


def find_color_table(mask_folder: Path, root: Path) -> Path | None:
    """Return CVAT's table of colours in or above a folder of masks, if the first mask has any."""
    masks = (file for file in mask_folder.rglob("*") if file.suffix.lower() in MASK_SUFFIXES)
    tables = (place / COLOR_TABLE for place in (mask_folder, mask_folder.parent, root))
    table = next((path for path in tables if path.is_file()), None)
    with suppress(*UNREADABLE), Image.open(next(masks, "")) as mask:  # else the check reports
        return table if mask.mode in ("RGB", "RGBA") else None
    return None


def _files(
    folder: Path, kind: str, ending: str, *, other: Path, without: Collection[Path] = ()
) -> dict[str, Path]:
    """List the images or masks below a folder, but hidden ones, by path without ending and suffix.

    Those below the `other` folder are left out, too, where that is in this one.
    """
    _check_folder(folder, f"{kind} folder")
    inner = other if folder in other.parents else None
    every = [
        file
        for file in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and inner not in file.parents
        and file not in without
    ]
    wanted = MASK_SUFFIXES if kind == "mask" else IMAGE_SUFFIXES
    suffixes = wanted if any(f.suffix.lower() in wanted for f in every) else IMAGE_SUFFIXES
    files: dict[str, Path] = {}
    for file in every:
        name = file.relative_to(folder).with_suffix("").as_posix()
        if file.suffix.lower() not in suffixes or not name.endswith(ending):
            continue
        first = files.setdefault(name.removesuffix(ending), file)
        if first != file:
            raise UserError(f"'{first}' and '{file.name}' have the same name before the suffix")
    if not files:
        raise UserError(
            f"{kind} folder '{folder}' has no {kind}s (*{ending} and {', '.join(wanted)}) in it; "
            f"it has {first_of([f.name for f in every]) or 'no files'}: correct the path"
        )
    return files


def _listed(images: dict[str, Path], listed: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return the images that a list names, with or without the ending of the file."""
    by_file = {file.relative_to(folder).as_posix(): name for name, file in images.items()}
    found: dict[str, Path] = {}
    for line in listed:
        name = line if line in images else by_file.get(line, "")
        if name not in images or name in found:
            problem = "a second time" if name else f"that is not in '{folder}'"
            raise UserError(f"a list of images names '{line[:200]}' {problem}; correct that line")
        found[name] = images[name]
    return found


def _check_folder(folder: Path, kind: str) -> None:
    if not folder.is_dir():
        raise MissingFileError(f"no {kind} '{folder}'; correct the path")


# Of the layouts that know them: the classes' names, and the files of a split.
NAMES = {"ade20k": ade20k_class_names, "cityscapes": lambda root: CITYSCAPES_NAMES}
PAIRS = {"ade20k": ade20k_pairs, "cityscapes": cityscapes_pairs}
