"""Where the images and masks of a dataset are.

Three layouts: ADE20K's scene parsing benchmark (http://sceneparsing.csail.mit.edu), Cityscapes
(https://www.cityscapes-dataset.com, label ids of cityscapesScripts), and any pair of folders.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from PIL import Image

from regnet_backbones.image_files import UNREADABLE
from regnet_backbones.semseg.labels import (
    IGNORE,
    Labels,
    first_of,
    lines_of,
    named,
    numbered_class_names,
)

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Of files that keep labels exactly. Where a folder has none, the check says what is wrong with it.
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")

# The name of CVAT's table of colours.
COLOR_TABLE = "labelmap.txt"

# Images whose masks are looked for to find a suffix that all have.
TRIED = 100

ADE20K_CLASSES = 150
ADE20K_FOLDERS = {"train": "training", "val": "validation"}
ADE20K_CLASS_FILES = ("objectInfo150.txt", "objectInfo.txt")

# The 19 classes of the benchmark in their order, with their label id among the 34.
CITYSCAPES_CLASSES = (
    ("road", 7),
    ("sidewalk", 8),
    ("building", 11),
    ("wall", 12),
    ("fence", 13),
    ("pole", 17),
    ("traffic light", 19),
    ("traffic sign", 20),
    ("vegetation", 21),
    ("terrain", 22),
    ("sky", 23),
    ("person", 24),
    ("rider", 25),
    ("car", 26),
    ("truck", 27),
    ("bus", 28),
    ("train", 31),
    ("motorcycle", 32),
    ("bicycle", 33),
)
CITYSCAPES_LABELS = 34
CITYSCAPES_NAMES = tuple(name for name, _ in CITYSCAPES_CLASSES)


@dataclass(frozen=True)
class Pairs:
    """The images of a split and their masks, in one order.

    Args:
        images: files of images.
        masks: file of each image's mask; it need not exist yet, `check_pairs` looks.
        labels: the classes, and what the values in the masks mean.

    Raises:
        ValueError: there is no image, or one without the file of its mask.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    labels: Labels

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("a dataset needs at least one image, got none")
        if len(self.images) != len(self.masks):
            raise ValueError(
                "every image needs the file of its mask, got "
                f"{len(self.images)} images and {len(self.masks)} masks"
            )

    def __len__(self) -> int:
        return len(self.images)

    def names(self) -> list[str]:
        """Return a name for each image: its file's, with folders where two would be the same."""
        names = [image.stem for image in self.images]
        if len(set(names)) == len(names):
            return names
        common = os.path.commonpath([image.parent for image in self.images])
        return [i.relative_to(common).with_suffix("").as_posix() for i in self.images]

    def subset(self, indices: Sequence[int]) -> "Pairs":
        """Return some of the pairs.

        Args:
            indices: of the pairs, in the order in which they shall be.
        """
        return replace(
            self,
            images=tuple(self.images[i] for i in indices),
            masks=tuple(self.masks[i] for i in indices),
        )


def ade20k_pairs(root: str | Path, split: str) -> Pairs:
    """Find the pairs of a folder in the layout of ADEChallengeData2016.

    Args:
        root: the folder that holds `images/`, `annotations/` and `objectInfo150.txt`.
        split: "train" or "val".

    Returns:
        The pairs, of which label 0 (unlabelled) is ignored and label k is class k - 1.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: a folder has no images, or the class file is not understood.
    """
    part = ADE20K_FOLDERS[_checked(split)]
    names = ade20k_class_names(root)
    folders = [Path(root) / kind / part for kind in ("images", "annotations")]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no folder '{folder}'; in layout 'ade20k' root is the folder that holds "
                "images/training, images/validation, annotations/training and "
                "annotations/validation: correct it, or take layout 'folder' and name your four"
            )
    classes = {0: IGNORE, IGNORE: IGNORE} | {k + 1: k for k in range(len(names))}
    return Pairs(*_pairs_by_name(*folders), Labels(names, classes))


def ade20k_class_names(root: str | Path) -> tuple[str, ...]:
    """Read the names of the classes of a folder in the layout of ADEChallengeData2016.

    Args:
        root: the folder that holds `objectInfo150.txt` or `objectInfo.txt`.

    Returns:
        Names of classes 0, 1, ..., each up to its first comma where that tells them apart. Without
        a class file, which is a warning, these are 150 numbered classes.

    Raises:
        FileNotFoundError: the root is not there.
        ValueError: the file does not number its rows 1, 2, ...
    """
    root = Path(root)
    _existing(root, "dataset folder")
    path = next((root / name for name in ADE20K_CLASS_FILES if (root / name).is_file()), None)
    if path is None:
        logger.warning(
            "'%s' has no %s; the classes are 1 to %d without names",
            root,
            " or ".join(ADE20K_CLASS_FILES),
            ADE20K_CLASSES,
        )
        return numbered_class_names(ADE20K_CLASSES)
    rows = [re.split(r"\t+", line) for line in lines_of(path, "class file", "numbered rows")]
    if rows and rows[0][0].strip() == "Idx":
        rows = rows[1:]
    if [row[0].strip() for row in rows] != [str(k) for k in range(1, len(rows) + 1)]:
        raise ValueError(
            f"class file '{path}' is not understood: after the line 'Idx ... Name' its rows must "
            "be numbered 1, 2, ... in the first column and named in the last, separated by tabs"
        )
    names = tuple(row[-1].strip() for row in rows)
    short = tuple(name.split(",")[0].strip() for name in names)
    return named(short if len(set(short)) == len(short) else names, path)


def cityscapes_pairs(root: str | Path, split: str) -> Pairs:
    """Find the pairs of a folder in the layout of Cityscapes.

    Masks are `*_gtFine_labelIds.png`, or `*_gtFine_labelTrainIds.png` where a split has only those.

    Args:
        root: the folder that holds `leftImg8bit/` and `gtFine/`.
        split: "train" or "val".

    Returns:
        The pairs, with the benchmark's 19 classes.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: a folder has no images or no masks.
    """
    image_folder = Path(root) / "leftImg8bit" / _checked(split)
    mask_folder = Path(root) / "gtFine" / split
    _existing(image_folder, "image folder")
    _existing(mask_folder, "mask folder")
    ending = "_leftImg8bit.png"
    images = tuple(sorted(image_folder.glob(f"*/*{ending}")))
    if not images:
        raise ValueError(
            f"image folder '{image_folder}' has no images <city>/*{ending}; unpack "
            "leftImg8bit_trainvaltest.zip there, or correct the root"
        )
    kinds = {
        "labelIds": dict.fromkeys((*range(CITYSCAPES_LABELS), IGNORE), IGNORE)
        | {label: k for k, (_, label) in enumerate(CITYSCAPES_CLASSES)},
        "labelTrainIds": {IGNORE: IGNORE} | {k: k for k in range(len(CITYSCAPES_CLASSES))},
    }
    kind = next((k for k in kinds if any(mask_folder.glob(f"*/*_gtFine_{k}.png"))), None)
    if kind is None:
        raise ValueError(
            f"mask folder '{mask_folder}' has no masks <city>/*_gtFine_labelIds.png; unpack "
            "gtFine_trainvaltest.zip there, or correct the root"
        )
    masks = tuple(
        mask_folder / image.parent.name / f"{image.name.removesuffix(ending)}_gtFine_{kind}.png"
        for image in images
    )
    return Pairs(images, masks, Labels(CITYSCAPES_NAMES, kinds[kind]))


def folder_pairs(
    images: str | Path,
    masks: str | Path,
    labels: Labels,
    *,
    mask_suffix: str = "",
    listed: Sequence[str] | None = None,
) -> Pairs:
    """Pair the images below one folder with the masks below another that have the same path.

    Args:
        images: folder of the images.
        masks: folder of the masks.
        labels: what the values in the masks mean.
        mask_suffix: what the name of a mask has after that of its image, such as "_mask".
        listed: names of the images to take, relative to their folder, with or without the ending of
            the file; None for all.

    Returns:
        The pairs, in the order of the names.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder has no images, no image has a mask, two files differ in nothing but
            the ending, or a listed image does not exist.
    """
    return Pairs(*_pairs_by_name(Path(images), Path(masks), mask_suffix, listed), labels)


def find_color_table(mask_folder: Path, root: Path) -> Path | None:
    """Return CVAT's table of colours in or above a folder of masks, or in the root.

    It is of no use for masks that are not in colour, as the first one shows.
    """
    places = (mask_folder, mask_folder.parent, root)
    table = next((f for place in places if (f := place / COLOR_TABLE).is_file()), None)
    masks = (f for f in mask_folder.rglob("*") if f.suffix.lower() in MASK_SUFFIXES)
    first = None if table is None else next(masks, None)
    if first is None:
        return None
    try:
        with Image.open(first) as mask:
            return table if mask.mode in ("RGB", "RGBA") else None
    except UNREADABLE:
        return None  # the check of the masks reports it


def _pairs_by_name(
    image_folder: Path,
    mask_folder: Path,
    mask_suffix: str = "",
    listed: Sequence[str] | None = None,
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """List the images of a folder and where the mask of each is or should be."""
    _existing(image_folder, "image folder")
    _existing(mask_folder, "mask folder")
    masks = _files_by_name(mask_folder, MASK_SUFFIXES, "mask", other=image_folder)
    masks = masks or _files_by_name(mask_folder, IMAGE_SUFFIXES, "mask", other=image_folder)
    end = Path(mask_suffix).suffix
    ending = mask_suffix.removesuffix(end if end.lower() in MASK_SUFFIXES else "")  # "_mask.png"
    if ending:
        with_it = {k.removesuffix(ending): f for k, f in masks.items() if k.endswith(ending)}
        if masks and not with_it:
            raise ValueError(
                f"no mask of '{mask_folder}' has --data.mask_suffix '{mask_suffix}' at the end of "
                f"its name; they are {first_of([file.name for file in masks.values()])}"
            )
        masks = with_it
    # Both in one folder: what is a mask is not an image.
    both = set(masks.values()) if image_folder == mask_folder else set()
    images = _files_by_name(image_folder, IMAGE_SUFFIXES, "image", other=mask_folder, without=both)
    for kind, files, folder, suffixes in (
        ("image", images, image_folder, IMAGE_SUFFIXES),
        ("mask", masks, mask_folder, MASK_SUFFIXES),
    ):
        if not files:
            raise ValueError(
                f"{kind} folder '{folder}' has no {kind}s ({', '.join(suffixes)}) in it; put them "
                "there, or correct the path"
            )
    if listed is not None:
        images = _listed(images, listed, image_folder)
    if not images.keys() & masks.keys():
        raise ValueError(_no_pair(images, masks, mask_folder))
    unused = [file.name for name, file in masks.items() if name not in images]
    if unused and listed is None:
        logger.warning(
            "%d masks of '%s' have no image in '%s' and are not used: %s",
            *(len(unused), mask_folder, image_folder, first_of(unused)),
        )
    files = tuple(masks.get(name, mask_folder / f"{name}{ending}.png") for name in images)
    return tuple(images.values()), files


def _files_by_name(
    folder: Path,
    suffixes: Sequence[str],
    kind: str,
    *,
    other: Path,
    without: frozenset[Path] | set[Path] = frozenset(),
) -> dict[str, Path]:
    """List the files below a folder that have one of the suffixes, hidden ones left out.

    Args:
        folder: is searched with the folders in it, but for `other`.
        suffixes: in lower case.
        kind: of file, for messages.
        other: the folder of the other kind, which may be in this one.
        without: files to leave out.

    Returns:
        The files by their path below the folder, without suffix.
    """
    apart = other if other != folder else None
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        below = file.relative_to(folder)
        if file.suffix.lower() not in suffixes or any(p.startswith(".") for p in below.parts):
            continue
        if apart in file.parents or file in without:
            continue
        name = below.with_suffix("").as_posix()
        if name in files:
            raise ValueError(
                f"'{files[name]}' and '{file.name}' beside it have the same name before the "
                f"suffix, by which images and masks are paired; keep one {kind} of that name "
                "(images and masks belong in two folders)"
            )
        files[name] = file
    return files


def _listed(images: Mapping[str, Path], listed: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return the images that a list names, with or without the ending of the file."""
    by_file = {file.relative_to(folder).as_posix(): name for name, file in images.items()}
    found: dict[str, Path] = {}
    for line in listed:
        name = line if line in images else by_file.get(line)
        if name is None:
            raise ValueError(
                f"a list of images names '{line[:200]}', and '{folder}' has no such image; names "
                f"are relative to that folder, as {first_of(list(images)[:2])}"
            )
        if name in found:
            raise ValueError(f"a list of images names '{line}' twice; leave one of them out")
        found[name] = images[name]
    return found


def _no_pair(images: Mapping[str, Path], masks: Mapping[str, Path], mask_folder: Path) -> str:
    """Say that no image has a mask, and which suffix of the masks would change that."""
    first = next(iter(images.values()))
    tried = list(islice(images, TRIED))
    ends = ({mask.removeprefix(name) for mask in masks if mask.startswith(name)} for name in tried)
    common = set.intersection(*ends)
    way_out = (
        f"--data.mask_suffix {min(common, key=len)} pairs them"
        if common
        else "give masks the names of their images"
    )
    return (
        f"image '{first}' has no mask: no image has a mask of its name in '{mask_folder}', where "
        f"they are {first_of([file.name for file in masks.values()])}; {way_out}"
    )


def _existing(folder: Path, kind: str) -> None:
    """Raise FileNotFoundError for a folder that is not there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no {kind} '{folder}'; correct the path")


def _checked(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    return split
