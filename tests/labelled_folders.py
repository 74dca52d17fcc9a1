"""Small datasets for tests, drawn in the formats that people have, all with the same objects."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
CLASSES = ("screw", "nut", "bolt")  # not in the order of the alphabet

# By image: the class, and left, top, right and bottom of a box.
OBJECTS = {
    "a_1": [("screw", (8, 4, 40, 20)), ("bolt", (30, 24, 62, 46))],
    "a_2": [("nut", (10, 10, 26, 30))],
    "b_1": [("screw", (0, 0, 64, 48)), ("nut", (20, 20, 36, 44))],
    "b_2": [],
}
TRIANGLE = (10, 10, 42, 14, 22, 40)


def draw(path: Path) -> Path:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def write(path: Path, text: str) -> Path:
    """Write a text file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def yolo_line(label: str, box: tuple) -> str:
    """Return a box as a line of a label file."""
    left, top, right, bottom = box
    values = [(left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT]
    values += [(right - left) / WIDTH, (bottom - top) / HEIGHT]
    return " ".join([str(CLASSES.index(label)), *map(repr, values)])


def write_yolo(root: Path, parts: tuple[str, ...] = ("train",)) -> Path:
    """Write a YOLO dataset, and return its data.yaml; b_2 has no label file."""
    for part in parts:
        for name, objects in OBJECTS.items():
            draw(root / "images" / part / f"{name}.png")
            if objects:
                lines = [yolo_line(*each) for each in objects]
                write(root / "labels" / part / f"{name}.txt", "\n".join(lines) + "\n")
    entries = "".join(f"{part}: images/{part}\n" for part in parts)
    return write(root / "data.yaml", f"path: .\n{entries}names: [{', '.join(CLASSES)}]\n")


def voc_object(label: str, box: tuple) -> str:
    """Return an `<object>`, whose pixels are counted from 1 and include the last one."""
    left, top, right, bottom = box
    corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
    return f"<object><name>{label}</name><bndbox>{inner}</bndbox></object>"


def voc_text(name: str, objects: list) -> str:
    """Return an annotation."""
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    inner = "".join(voc_object(*each) for each in objects)
    return f"<annotation><filename>{name}.png</filename>{size}{inner}</annotation>"


def write_voc(root: Path, *, lists: dict[str, list[str]] | None = None) -> Path:
    """Write a folder of Pascal VOC, and return it."""
    for name, objects in OBJECTS.items():
        draw(root / "JPEGImages" / f"{name}.png")
        write(root / "Annotations" / f"{name}.xml", voc_text(name, objects))
    for part, names in (lists or {}).items():
        write(root / "ImageSets" / "Main" / f"{part}.txt", "\n".join(names))
    return root


def shape(label: str, points: list, kind: str = "rectangle", **more: object) -> dict:
    """Return a shape of labelme."""
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def labelme_text(name: str, shapes: list[dict]) -> str:
    """Return the content of a labelme file."""
    content = {"version": "5.5.0", "imagePath": f"{name}.png", "imageData": None}
    content |= {"imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": shapes}
    return json.dumps(content)


def write_labelme(root: Path) -> Path:
    """Write a folder of labelme, every box as two corners, and return it."""
    for name, objects in OBJECTS.items():
        draw(root / f"{name}.png")
        shapes = [shape(label, [list(b[2:]), list(b[:2])]) for label, b in objects]
        write(root / f"{name}.json", labelme_text(name, shapes))
    return root
