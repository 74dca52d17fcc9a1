"""COCO jsons as they are on disk: read with their lists, and written.

Their values are checked by those that use them: `detection.data_checks` for detectors,
`semseg.coco` for segmenters.
"""

import json
from pathlib import Path
from reprlib import repr as shortened

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import read_json, write_whole

# The content of a file: the lists below and anything else.
CocoJson = dict[str, list[dict]]
LISTS = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}


def read_coco_json(path: str | Path) -> CocoJson:
    """Read a COCO json, whose lists have the keys of `LISTS`; raise UserError for other files."""
    if not Path(path).is_file():
        raise MissingFileError(f"no annotation file '{path}'; correct the path")
    content = read_json(path)
    for name, keys in LISTS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not (entries or name == "annotations"):
            raise UserError(f"'{path}' is not a COCO json: it needs a list '{name}'")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or not set(keys) <= entry.keys():
                needed = f"an object with {' and '.join(keys)}" if keys else "an object"
                found = shortened(entry)
                raise UserError(f"'{path}': {name}[{number}] must be {needed}, got {found}")
    for name in ("images", "categories"):
        seen: set[str] = set()
        for entry in content[name]:
            if str(entry["id"]) in seen:
                raise UserError(f"'{path}': two of '{name}' have the id {shortened(entry['id'])}")
            seen.add(str(entry["id"]))
    return content


def write_coco_json(path: Path, content: CocoJson) -> None:
    """Write a COCO json whole, in a folder that is made."""
    write_whole(path, lambda file: file.write(json.dumps(content).encode()))
