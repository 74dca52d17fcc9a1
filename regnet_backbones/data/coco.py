"""COCO jsons as they are on disk: read with their lists, and written; and RLEs, their masks.

Other values are checked by those that use them: `detection.data_checks` for detectors,
`semseg.coco` for segmenters.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from reprlib import repr as shortened

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import read_json, write_whole

# The content of a file: the lists below and anything else.
CocoJson = dict[str, list[dict]]
LISTS = ("images", "annotations", "categories")
NAMES = {"images": "file_name", "categories": "name"}  # what their entries have next to an id
TOO_LARGE = 2**29  # pixels of an image; Pillow opens none that is so large


def id_text(value: object) -> str:
    """Return an id as text, which is the same of 1, 1.0 and "1"."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def read_coco_json(path: str | Path) -> CocoJson:
    """Read a COCO json whose images and categories have names and ids; raise UserError for others.

    The ids, as text, must differ.
    """
    content = read_lists(path)
    for name, key in NAMES.items():
        seen: set[str] = set()
        for number, entry in enumerate(content[name]):
            if type(entry.get("id")) not in (int, float, str) or type(entry.get(key)) is not str:
                needed = f"an id, a number or text, and a {key}, a text"
                found = shortened(entry)
                raise UserError(f"'{path}': {name}[{number}] must have {needed}, got {found}")
            if id_text(entry["id"]) in seen:
                raise UserError(f"'{path}': two of '{name}' have the id {shortened(entry['id'])}")
            seen.add(id_text(entry["id"]))
    return content


def read_lists(path: str | Path, names: Collection[str] = LISTS) -> CocoJson:
    """Read a COCO json that has the lists `names`, of objects; raise UserError for other files."""
    if not Path(path).is_file():
        raise MissingFileError(f"no annotation file '{path}'; correct the path")
    content = read_json(path)
    for name in names:
        entries = content.get(name) if isinstance(content, dict) else None
        is_list = isinstance(entries, list)
        wrong = [e for e in entries if not isinstance(e, dict)] if is_list else [entries]
        if wrong or not (entries or name == "annotations"):
            given = shortened(wrong[0] if wrong else entries)
            needed = f"{name} must be a list of objects, got {given}"
            raise UserError(f"'{path}' is not a COCO json: {needed}")
    return content


def root_category(categories: Sequence[dict], used: Collection[str]) -> dict | None:
    """Return the category that is only the `supercategory` of all others; None without one.

    `used` are the ids, as text, that annotations have.
    """
    for root in categories if len(categories) > 1 else ():
        others = (category.get("supercategory") for category in categories if category is not root)
        if id_text(root["id"]) not in used and all(name == root["name"] for name in others):
            return root
    return None


def is_mask(rle: Mapping, size: list[int]) -> bool:
    """Return whether an RLE, of runs in a list or as compressed text, is a mask of [height, width].

    pycocotools decodes others to undefined pixels: it reads beyond the end of a text that is cut,
    and leaves pixels after the last run as they are in memory. Runs of `TOO_LARGE` overflow it.
    """
    counts = rle.get("counts")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return False
    return rle.get("size") == size and sum(runs) == size[0] * size[1] < TOO_LARGE


def _runs(text: str) -> list[int] | None:
    """Return the runs of a compressed RLE, None for a text that pycocotools misreads.

    Up to 6 groups of 5 bits, lowest first, with a sign; from the fourth run on they are differences
    to the last but one.
    """
    runs: list[int] = []
    value = bits = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or bits == 30:
            return None
        value |= (group & 31) << bits
        bits += 5
        if group & 32:  # more to come
            continue
        if group & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = bits = 0
    return None if bits else runs


def write_coco_json(path: Path, content: CocoJson) -> None:
    """Write a COCO json whole, in a folder that is made; other processes may write the same."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    write_whole(part, lambda file: file.write(json.dumps(content).encode()))
    os.replace(part, path)
