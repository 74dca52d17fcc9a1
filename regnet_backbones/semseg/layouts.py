"""Where images and masks are: in ADE20K, Cityscapes, COCO jsons, and in any pair of folders."""

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import files_below
from regnet_backbones.semseg.coco import PaintedMask, PanopticMask
from regnet_backbones.semseg.labels import IGNORE, Labels, check_class_names, first_of, lines_of

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Of files that keep labels exactly. If a folder has none, the check reports the problem.
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")

ADE20K_FOLDERS = {"train": "training", "val": "validation"}
ADE20K_CLASS_FILES = ("objectInfo150.txt", "objectInfo.txt")

# The 19 classes of the benchmark in their order, and their label ids among the 34.
CITYSCAPES_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@dataclass(frozen=True)
class Pairs:
    """The images of a split and their masks, in one order; not opened yet."""

    images: tuple[Path, ...]
    masks: tuple[Path | PaintedMask | PanopticMask, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.images)


def ade20k_pairs(root: str | Path, split: str) -> Pairs:
    """Find the pairs of ADEChallengeData2016: label 0 is ignored, label k is class k - 1."""
    names = ade20k_class_names(root)
    classes = {0: IGNORE, IGNORE: IGNORE} | {k + 1: k for k in range(len(names))}
    images, masks = (Path(root, kind, ADE20K_FOLDERS[split]) for kind in ("images", "annotations"))
    return folder_pairs(images, masks, Labels(names, classes))


def ade20k_class_names(root: str | Path) -> tuple[str, ...]:
    """Read the names of ADE20K's classes; without a class file, warn and number 150."""
    check_folder(Path(root), "dataset folder")
    paths = (Path(root, name) for name in ADE20K_CLASS_FILES)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        names = " or ".join(ADE20K_CLASS_FILES)
        logger.warning("no %s in '%s': classes are named by their numbers", names, root)
        return tuple(f"class {k}" for k in range(150))
    # Rows of a number, tabs, ..., a name; the first one is a header.
    rows = [line.split("\t") for line in lines_of(path)]
    names = [row[-1].strip() for row in rows if row[0].strip().isdecimal()]
    short = [name.split(",")[0] for name in names]
    return check_class_names(short if len(set(short)) == len(short) else names)


def cityscapes_pairs(root: str | Path, split: str) -> Pairs:
    """Find the pairs of Cityscapes, with the benchmark's 19 classes.

    Masks are `*_gtFine_labelIds.png`, or `*_gtFine_labelTrainIds.png` where a split has only those.
    """
    images, masks = (Path(root, kind, split) for kind in ("leftImg8bit", "gtFine"))
    suffix, labels = "_gtFine_labelIds", CITYSCAPES_IDS
    classes = dict.fromkeys((*range(34), IGNORE), IGNORE)
    if not any(masks.glob(f"*/*{suffix}.png")) and any(masks.glob("*/*_labelTrainIds.png")):
        suffix, labels = "_gtFine_labelTrainIds", range(len(CITYSCAPES_IDS))
        classes = {IGNORE: IGNORE}
    classes |= {label: k for k, label in enumerate(labels)}
    found = Labels(CITYSCAPES_NAMES, classes)
    return folder_pairs(images, masks, found, image_suffix="_leftImg8bit", mask_suffix=suffix)


def folder_pairs(
    images: Path,
    masks: Path,
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
    mask_suffix = mask_suffix.removesuffix(Path(mask_suffix).suffix)
    mask_of = _files(masks, "mask", mask_suffix, MASK_SUFFIXES)
    # In a folder of both, what is a mask is not an image.
    taken = frozenset(mask_of.values())
    image_of = _files(images, "image", image_suffix, IMAGE_SUFFIXES, taken)
    if listed is not None:
        wanted = {(images / line).as_posix() for line in listed}  # with or without their endings
        image_of = {
            name: file
            for name, file in image_of.items()
            if {(images / name).as_posix(), file.as_posix()} & wanted
        }
        if len(image_of) < len(wanted):
            found = f"'{images}' has only {len(image_of)} of the {len(wanted)} listed images"
            raise UserError(f"{found}; correct --data.train_list or --data.val_list")
    elif unused := [file.name for name, file in mask_of.items() if name not in image_of]:
        text = "%d masks of '%s' have no image in '%s' and are not used: %s"
        logger.warning(text, len(unused), masks, images, first_of(unused))
    if not image_of.keys() & mask_of.keys():
        names = (first_of([file.name for file in files.values()]) for files in (image_of, mask_of))
        text = "no image has a mask of its name; set --data.mask_suffix. Images: {}; masks: {}"
        raise UserError(text.format(*names))
    paths = (mask_of.get(name, masks / f"{name}{mask_suffix}.png") for name in image_of)
    return Pairs(tuple(image_of.values()), tuple(paths), labels)


def _files(
    folder: Path, kind: str, ending: str, wanted: Sequence[str], without: Set[Path] = frozenset()
) -> dict[str, Path]:
    """List the images or masks below a folder by path without ending and suffix."""
    check_folder(folder, f"{kind} folder")
    every = list(files_below(folder))
    suffixes = wanted if any(f.suffix.lower() in wanted for f in every) else IMAGE_SUFFIXES
    files: dict[str, Path] = {}
    for file in every:
        name = file.relative_to(folder).with_suffix("").as_posix()
        if file.suffix.lower() in suffixes and name.endswith(ending) and file not in without:
            first = files.setdefault(name.removesuffix(ending), file)
            if first != file:
                raise UserError(f"'{first}' and '{file.name}' differ only by suffix; rename one")
    if not files and without.intersection(every):
        needed = "pass another folder, or set --data.mask_suffix"
        raise UserError(f"all files of image folder '{folder}' are taken as masks; {needed}")
    if not files:
        held = first_of([f.name for f in every]) or "no files"
        names = f"{kind}s (*{ending} and {', '.join(wanted)})"
        raise UserError(f"{kind} folder '{folder}' must have {names}, got {held}")
    return files


def check_folder(folder: Path, kind: str) -> None:
    """Raise MissingFileError for a folder that does not exist."""
    if not folder.is_dir():
        raise MissingFileError(f"no {kind} '{folder}'; correct the path")


# Of the layouts with fixed classes: their names, and the files of a split.
NAMES = {"ade20k": ade20k_class_names, "cityscapes": lambda root: CITYSCAPES_NAMES}
PAIRS = {"ade20k": ade20k_pairs, "cityscapes": cityscapes_pairs}
