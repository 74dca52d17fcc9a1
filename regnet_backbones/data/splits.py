"""One dataset as training and validation data: a COCO json split by classes and by scenes.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011,
https://doi.org/10.1007/978-3-642-23808-6_10) of whole scenes: the rarest class that is left is
shared out first, each scene to the part that lacks most of it.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from regnet_backbones.data.coco import CocoJson, id_text
from regnet_backbones.errors import UserError

PARTS = ("train", "val")


def split(
    content: CocoJson, fraction: float, *, seed: int = 0, group: str | None = None
) -> dict[str, CocoJson]:
    """Return "train" and "val" of a COCO json, which has each class of two scenes or more in both.

    Args:
        content: of `read_coco_json`, not changed.
        fraction: of the images, between 0 and 1, that "val" gets.
        seed: of the order in which images are shared out.
        group: regular expression, searched in each `file_name`; images with the same first group
            are one scene, and stay together. None if each image is a scene.

    Raises:
        UserError: the fraction or the expression is invalid, or there are fewer than two scenes.
    """
    if not 0 < fraction < 1:
        raise UserError(f"--val-fraction must be between 0 and 1, got {fraction}")
    scenes = _scenes(content["images"], group)
    if len(scenes) < 2:
        what = "1 image" if group is None else "1 scene of --group"
        raise UserError(f"{what} cannot be split into two parts; pass validation data with --val")
    images = [id_text(image["id"]) for image in content["images"]]
    classes: dict[str, set] = {number: set() for number in images}
    for entry in content["annotations"]:
        classes.get(id_text(entry.get("image_id")), set()).add(id_text(entry.get("category_id")))
    held = [Counter(each for number in scene for each in classes[number]) for scene in scenes]
    chosen = _stratified(held, [len(scene) for scene in scenes], fraction, random.Random(seed))
    validation = {number for place in chosen for number in scenes[place]}
    return {part: _part(content, validation, part == "val") for part in PARTS}


def class_table(parts: Mapping[str, CocoJson]) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of a table: objects and images by class in each part, and of all."""
    headers, first = ["class"], next(iter(parts.values()))
    rows: list[list[object]] = [[each["name"]] for each in first["categories"]] + [["all"]]
    for part, content in parts.items():
        headers += [f"{part} objects", f"of {len(content['images']):,} images"]
        named = ("category_id", "image_id")
        keys = [tuple(id_text(a.get(key)) for key in named) for a in content["annotations"]]
        objects, pairs = Counter(number for number, _ in keys), set(keys)
        images = Counter(number for number, _ in pairs)
        for row, category in zip(rows, first["categories"], strict=False):
            number = id_text(category["id"])
            row += [objects[number], images[number]]
        rows[-1] += [objects.total(), len({image for _, image in pairs})]
    return headers, rows


def _scenes(images: Sequence[Mapping], group: str | None) -> list[list[str]]:
    """Return the ids of the images of each scene, as text."""
    try:
        pattern = re.compile(group or "")
    except re.error as error:
        raise UserError(f"--group '{group}' is not a regular expression: {error}") from error
    if group is not None and not pattern.groups:
        raise UserError(f"--group needs (...) around the scene, as '^(.+)_[0-9]+', got '{group}'")
    scenes: dict[object, list[str]] = {}
    for place, image in enumerate(images):
        name: object = place
        if group is not None:
            found = pattern.search(str(image["file_name"]))
            if found is None or found[1] is None:
                raise UserError(f"--group '{group}' does not match '{image['file_name']}'")
            name = found[1]
        scenes.setdefault(name, []).append(id_text(image["id"]))
    return list(scenes.values())


def _stratified(
    held: Sequence[Counter[str]], sizes: Sequence[int], fraction: float, draws: random.Random
) -> list[int]:
    """Choose the scenes of the validation data, by the images of each class and all of them."""
    order = list(range(len(held)))
    draws.shuffle(order)
    order.sort(key=lambda scene: -sizes[scene])  # large ones while there is room for them
    holders: dict[str, list[int]] = {}
    for scene in order:
        for each in held[scene]:
            holders.setdefault(each, []).append(scene)
    left, remaining = dict.fromkeys(order), {each: len(of) for each, of in holders.items()}
    lacks = {each: [0.0, 0.0] for each in holders}
    for each, of in holders.items():
        images = sum(held[scene][each] for scene in of)
        least = 1.0 if len(of) > 1 else 0.0  # one in each part, if there are two
        lacks[each] = [images * (1 - fraction), max(images * fraction, least)]
    room = [sum(sizes) * (1 - fraction), max(sum(sizes) * fraction, 1.0)]
    parts: tuple[list[int], list[int]] = ([], [])
    taken: tuple[set[str], set[str]] = (set(), set())

    def put(scene: int, part: int) -> None:
        del left[scene]
        parts[part].append(scene)
        taken[part].update(held[scene])
        room[part] -= sizes[scene]
        for each, n in held[scene].items():
            lacks[each][part] -= n
            remaining[each] -= 1

    while rarest := min(filter(remaining.get, remaining), key=remaining.get, default=None):
        for scene in holders[rarest]:
            if scene not in left:
                continue
            # The last scenes of a class that one part has none of go there.
            bare = [part for part in (0, 1) if rarest not in taken[part]]
            if remaining[rarest] == len(bare) and len(holders[rarest]) > 1:
                put(scene, bare[0])
            else:
                put(scene, max((0, 1), key=lambda part: (lacks[rarest][part], room[part])))
    for scene in list(left):
        put(scene, max((0, 1), key=lambda part: room[part]))
    for full, empty in ((0, 1), (1, 0)):
        if not parts[empty]:
            parts[empty].append(parts[full].pop())
    return parts[1]


def _part(content: CocoJson, validation: set[str], wanted: bool) -> CocoJson:
    """Return the images in the validation data, or the others, with their annotations."""
    images = [i for i in content["images"] if (id_text(i["id"]) in validation) == wanted]
    entries = content["annotations"]
    kept = [a for a in entries if (id_text(a.get("image_id")) in validation) == wanted]
    return {**content, "images": images, "annotations": kept}
