"""Where the images and masks of a dataset are, and what the labels in its masks mean.

Three layouts: ADE20K's scene parsing benchmark (http://sceneparsing.csail.mit.edu), Cityscapes
(https://www.cityscapes-dataset.com, label ids of cityscapesScripts), and any pair of folders.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

logger = logging.getLogger(__name__)

# Label of pixels that count nowhere, in every mask file and in every mask handed out.
IGNORE = 255

SPLITS = ("train", "val")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png",)

# How many names an error lists.
LISTED = 8

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
        class_names: names of classes 0, 1, ...
        label_map: class, or `IGNORE`, of labels 0, 1, ... of the mask files. Label 255 is `IGNORE`
            in every dataset; labels beyond the map are errors.

    Raises:
        ValueError: there is no image, or one without the file of its mask; the number of classes or
            of labels is not 1 to 255, two classes have one name, or the map gives a class that
            there is not.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    class_names: tuple[str, ...]
    label_map: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("a dataset needs at least one image, got none")
        if len(self.images) != len(self.masks):
            raise ValueError(
                "every image needs the file of its mask, got "
                f"{len(self.images)} images and {len(self.masks)} masks"
            )
        check_class_names(self.class_names)
        if not 1 <= len(self.label_map) <= IGNORE:
            raise ValueError(
                f"a label map has an entry for each of 1 to {IGNORE} labels, got "
                f"{len(self.label_map)}; label {IGNORE} is ignored and needs none"
            )
        strays = sorted({c for c in self.label_map if c != IGNORE} - set(range(self.num_classes)))
        if strays:
            raise ValueError(
                f"a label map gives classes 0 to {self.num_classes - 1} or {IGNORE} (ignored), "
                f"got {first_of(strays)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes, without the ignored label."""
        return len(self.class_names)

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
    images, masks = _pairs_by_stem(*folders)
    return Pairs(images, masks, names, label_map=(IGNORE, *range(len(names))))


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
    rows = [re.split(r"\t+", line.strip()) for line in _lines(path)]
    if rows and rows[0][0].strip() == "Idx":
        rows = rows[1:]
    if [row[0].strip() for row in rows] != [str(k) for k in range(1, len(rows) + 1)]:
        raise ValueError(
            f"class file '{path}' is not understood: after the line 'Idx ... Name' its rows must "
            "be numbered 1, 2, ... in the first column and named in the last, separated by tabs"
        )
    names = tuple(row[-1].strip() for row in rows)
    short = tuple(name.split(",")[0].strip() for name in names)
    return _named(short if len(set(short)) == len(short) else names, path)


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
        "labelIds": _map_of_label_ids(),
        "labelTrainIds": tuple(range(len(CITYSCAPES_CLASSES))),
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
    return Pairs(images, masks, CITYSCAPES_NAMES, label_map=kinds[kind])


def folder_pairs(images: str | Path, masks: str | Path, class_names: Sequence[str]) -> Pairs:
    """Pair the images of one folder with the PNG masks of another that have the same stem.

    Args:
        images: folder of the images.
        masks: folder of the masks.
        class_names: names of classes 0, 1, ...

    Returns:
        The pairs, whose labels are the classes; 255 is ignored.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: a folder has no images, two files of a folder have one stem, or two classes one
            name.
    """
    names = tuple(class_names)
    check_class_names(names)
    return Pairs(*_pairs_by_stem(Path(images), Path(masks)), names, tuple(range(len(names))))


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Read the names of classes from a text file.

    Args:
        path: a file in UTF-8 with one name a line.

    Returns:
        Names of classes 0, 1, ...

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it has no names, or one twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no class file '{path}'; it has one class name a line")
    return _named(tuple(line.strip() for line in _lines(path)), path)


def numbered_class_names(num_classes: int) -> tuple[str, ...]:
    """Name classes that have no names."""
    return tuple(f"class {k}" for k in range(num_classes))


def check_class_names(names: Sequence[str]) -> None:
    """Raise ValueError unless there are 1 to 255 classes, all named differently."""
    if not 1 <= len(names) <= IGNORE:
        raise ValueError(
            f"the number of classes must be 1 to {IGNORE}, got {len(names)}; "
            f"label {IGNORE} is kept for ignored pixels"
        )
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"class names must differ, these come twice: {first_of(twice)}")


def first_of(items: Sequence[object]) -> str:
    """Name the first few of many."""
    more = ", ..." if len(items) > LISTED else ""
    return ", ".join(str(item) for item in items[:LISTED]) + more


def _map_of_label_ids() -> tuple[int, ...]:
    """Return the class of each of Cityscapes' label ids."""
    classes = {label: k for k, (_, label) in enumerate(CITYSCAPES_CLASSES)}
    return tuple(classes.get(label, IGNORE) for label in range(CITYSCAPES_LABELS))


def _pairs_by_stem(
    image_folder: Path, mask_folder: Path
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """List the images of a folder and where the mask of each is or should be."""
    images = _files_by_stem(image_folder, IMAGE_SUFFIXES, "image")
    masks = _files_by_stem(mask_folder, MASK_SUFFIXES, "mask")
    unused = [file.name for stem, file in masks.items() if stem not in images]
    if unused:
        logger.warning(
            "%d masks of '%s' have no image in '%s' and are not used: %s",
            len(unused),
            mask_folder,
            image_folder,
            first_of(unused),
        )
    files = tuple(masks.get(stem, mask_folder / f"{stem}.png") for stem in images)
    return tuple(images.values()), files


def _files_by_stem(folder: Path, suffixes: Sequence[str], kind: str) -> dict[str, Path]:
    """List the files of a folder that have one of the suffixes, hidden ones left out."""
    _existing(folder, f"{kind} folder")
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in suffixes or file.name.startswith("."):
            continue
        if file.stem in files:
            raise ValueError(
                f"'{files[file.stem]}' and '{file.name}' beside it have the same name before the "
                f"suffix, by which images and masks are paired; keep one {kind} of that name "
                "(images and masks belong in two folders)"
            )
        files[file.stem] = file
    if not files:
        raise ValueError(
            f"{kind} folder '{folder}' has no {kind}s ({', '.join(suffixes)}) directly in it; "
            "put them there, or correct the path"
        )
    return files


def _existing(folder: Path, kind: str) -> None:
    """Raise FileNotFoundError for a folder that is not there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no {kind} '{folder}'; correct the path")


def _lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"class file '{path}' is not a text file in UTF-8: {error}; save it as one"
        ) from error
    return [line for line in text.splitlines() if line.strip()]


def _named(names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """Return class names, or say which file has wrong ones."""
    try:
        check_class_names(names)
    except ValueError as error:
        raise ValueError(f"class file '{path}': {error}") from error
    return names


def _checked(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    return split
