"""COCO jsons as exporters write them: taken as what they mean, or refused with the value named.

A good json is changed in one place at a time. What is accepted must be exact: detectron2 loads it,
and its own truth as prediction has an AP of 100.
"""

import contextlib
import io
import json
import random
import unicodedata

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from PIL import Image
from pycocotools import mask as coco_mask

from regnet_backbones.detection.data import read_categories, read_coco_split, register_split
from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.annotations import check_coco
from regnet_backbones.detection.data_checks.coco import read_coco
from regnet_backbones.detection.data_checks.kinds import Report

WIDTH, HEIGHT, NAME = 96, 64, "own_json_test"
NAN = float("nan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(1, 5):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{number}.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / unicodedata.normalize("NFC", "é.png"))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


def good():
    """Three objects in each of four images, in places where x is not y."""
    draw = random.Random(0)
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i, "name": n} for i, n in ((1, "nut"), (2, "bolt"))]
    for image in range(1, 5):
        size = {"width": WIDTH, "height": HEIGHT}
        content["images"].append({"id": image, "file_name": f"{image}.png", **size})
        for left in (2, 34, 64):
            x, y = left + draw.randint(0, 3), draw.randint(2, 30)
            w, h = draw.randint(14, 24), draw.randint(12, 30)
            number = len(content["annotations"]) + 1
            entry = {"id": number, "image_id": image, "category_id": 1 + number % 2}
            entry |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            content["annotations"].append(entry)
    return content


def each(key, change, place="annotations", count=None):
    """Return a mutation of the values of a key; an `Ellipsis` deletes it."""

    def mutate(content):
        for entry in content[place][:count]:
            value = change(entry.get(key)) if callable(change) else change
            if value is ...:
                entry.pop(key, None)
            else:
                entry[key] = value

    return mutate


def first(key, value, place="annotations"):
    return each(key, value, place, count=1)


def corners(box):
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def centred(box):
    return [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]]


def relative(box):
    return [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]


def polygons(x, y):
    """Return a mutation of all polygons: of their x and y."""

    def mutate(value):
        return [
            [v for p in zip(x(p[::2], p[1::2]), y(p[::2], p[1::2]), strict=True) for v in p]
            for p in value
        ]

    return each("segmentation", mutate)


def both(*mutations):
    def mutate(content):
        for mutation in mutations:
            mutation(content)

    return mutate


def roboflow(content):
    """Ids from 0, and a root category."""
    for place in ("images", "annotations"):
        for entry in content[place]:
            entry["id"] -= 1
    for entry in content["annotations"]:
        entry["image_id"] -= 1
    for category in content["categories"]:
        category["supercategory"] = "parts"
    content["categories"].insert(0, {"id": 0, "name": "parts", "supercategory": "none"})


def rename(change):
    return each("file_name", change, "images")


def rle(value):
    x, y, *_ = value[0]
    w, h = value[0][2] - x, value[0][5] - y
    runs = [x * HEIGHT + y, *[h, HEIGHT - h] * (w - 1), h]
    return {"size": [HEIGHT, WIDTH], "counts": [*runs, HEIGHT * WIDTH - sum(runs)]}


def empty_object(content):
    content["annotations"].append(
        {"id": 99, "image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 0], "segmentation": []}
    )


def accented(content):
    content["images"][0]["file_name"] = unicodedata.normalize("NFD", "é.png")


# By name: a mutation, and a text of the note that it gives; "" for none.
TAKEN = {
    "nothing": (lambda content: None, ""),
    "sizes as floats": (each("width", float, "images"), "'width' in 'images'"),
    "category ids as text": (each("category_id", str), "category_id '2'"),
    "category ids as floats": (each("category_id", float), "category_id 2.0"),
    "all ids as text": (
        both(
            *(each("id", str, place) for place in ("images", "categories")),
            *(each(key, str) for key in ("image_id", "category_id")),
        ),
        "",
    ),
    "iscrowd null": (each("iscrowd", None), "iscrowd None"),
    "iscrowd false": (each("iscrowd", False), "iscrowd False"),
    "iscrowd missing": (each("iscrowd", ...), "no iscrowd"),
    "ignore null": (each("ignore", None), "ignore None"),
    "annotation ids from 0": (each("id", lambda i: i - 1), "annotation 0"),
    "annotation ids UUIDs": (each("id", lambda i: f"c0ffee{i:02}-0000"), "'c0ffee01-0000'"),
    "annotation ids missing": (each("id", ...), "without id"),
    "annotation ids twice": (each("id", lambda i: i // 2 + 1), "repeated"),
    "roboflow": (roboflow, "category 0"),
    "area missing": (each("area", ...), "no area"),
    "area null": (each("area", None), "no area"),
    "area 0": (each("area", 0), "no area, or 0"),
    "bbox missing": (each("bbox", ...), "no bbox"),
    "bbox null": (first("bbox", None), "no bbox"),
    "segmentation flat": (each("segmentation", lambda s: s[0]), "segmentation ["),
    "segmentation as RLE": (each("segmentation", rle), ""),
    "an empty object": (empty_object, "annotation 99"),
    "backslash": (rename(lambda name: f"images\\{name}"), "images\\1.png"),
    "folders of another machine": (rename(lambda name: f"C:\\data\\images\\{name}"), "C:\\data"),
    "the folder again": (rename(lambda name: f"train/{name}"), "train/1.png"),
    "composed otherwise": (accented, "on the disk"),
    "unused class": (
        lambda content: content["categories"].append({"id": 7, "name": "gear"}),
        "gear",
    ),
}

# By name: a mutation, and texts that the error has.
REFUSED = {
    "width text": (each("width", "96", "images"), "width '96'"),
    "width null": (first("width", None, "images"), "width None"),
    "width missing": (first("width", ..., "images"), "width missing"),
    "width 0": (first("width", 0, "images"), "width 0"),
    "height half": (first("height", 64.5, "images"), "height 64.5"),
    "file_name null": (first("file_name", None, "images"), "file_name None"),
    "file_name number": (first("file_name", 7, "images"), "file_name 7"),
    "file_name gone": (first("file_name", "gone.png", "images"), "gone.png"),
    "images a number": (lambda content: content.update(images=3), "got 3"),
    "images empty": (
        lambda content: content["images"].clear(),
        "images must be a list",
    ),
    "no categories": (
        lambda content: content.pop("categories"),
        "categories must be a list",
    ),
    "name a number": (first("name", 5, "categories"), "name 5"),
    "image id twice": (first("id", 2, "images"), "id 2"),
    "category unknown": (first("category_id", 9), "category_id 9"),
    "image unknown": (first("image_id", "gone"), "image_id 'gone'"),
    "image id text": (first("id", "a", "images"), "text as id"),
    "category id text": (first("id", "a", "categories"), "text as id"),
    "bbox text": (first("bbox", ["1", "2", "3", "4"]), "bbox ['1', '2', '3', '4']"),
    "bbox of three": (first("bbox", [1, 2, 3]), "bbox [1, 2, 3]"),
    "bbox NaN": (first("bbox", [NAN, 2, 3, 4]), "bbox [nan, 2, 3, 4]"),
    "bbox negative": (first("bbox", [9, 9, -3, 4]), "bbox [9, 9, -3, 4]"),
    "bbox and polygons missing": (
        both(first("bbox", None), first("segmentation", [])),
        "an annotation has no bbox",
    ),
    "iscrowd word": (first("iscrowd", "no"), "iscrowd 'no'"),
    "ignored": (first("ignore", 1), "'ignore'"),
    "area NaN": (first("area", NAN), "area nan"),
    "polygon NaN": (first("segmentation", [[NAN, 1, 5, 1, 5, 5]]), "[[nan, 1, 5, 1, 5, 5]]"),
    "RLE without counts": (first("segmentation", {"size": [HEIGHT, WIDTH]}), "{'size': [64, 96]}"),
    "RLE of one side": (first("segmentation", {"size": [64], "counts": [64]}), "'size': [64]"),
    "RLE negative": (
        first("segmentation", {"size": [HEIGHT, WIDTH], "counts": [-1, 6145]}),
        "'counts': [-1, 6145]",
    ),
    "masks that are boxes": (
        each("segmentation", lambda s: [[*s[0][:2], 5, 5]]),
        "no polygon of 3",
    ),
    "all crowds": (each("iscrowd", 1), "12 crowd regions"),
    "no annotations": (lambda content: content["annotations"].clear(), "nothing to train on"),
    # In what the values say together
    "corners": (each("bbox", corners), "as corners [x1, y1, x2, y2]"),
    "centres": (each("bbox", centred), "as [centre x, centre y, width, height]"),
    "relative boxes": (each("bbox", relative), "normalised, 0 to 1"),
    "relative centres": (each("bbox", lambda b: relative(centred(b))), "[centre x, centre y"),
    "relative corners": (each("bbox", lambda b: relative(corners(b))), "as corners"),
    "relative polygons": (
        polygons(lambda x, y: [v / WIDTH for v in x], lambda x, y: [v / HEIGHT for v in y]),
        "normalised, 0 to 1",
    ),
    "corners without polygons": (
        both(each("bbox", corners), each("segmentation", ...)),
        "as corners [x1, y1, x2, y2]",
    ),
    "relative centres without polygons": (
        both(each("bbox", lambda b: relative(centred(b))), each("segmentation", ...)),
        "normalised, 0 to 1",
    ),
}

# By name: a mutation, and texts of the note.
NOTED = {
    "one box as corners": (first("bbox", corners), "bbox and polygons"),
    "one box elsewhere": (first("bbox", [60, 40, 9, 9]), "bbox and polygons"),
    "shifted polygons": (
        polygons(lambda x, y: [v - 20 for v in x], lambda x, y: [v + 15 for v in y]),
        "12 times: bbox and polygons",
    ),
    "a file twice": (first("file_name", "2.png", "images"), "listed as several images"),
    "every annotation twice": (
        lambda c: c["annotations"].extend([{**a, "id": a["id"] + 50} for a in c["annotations"]]),
        "12 times: an annotation repeats",
    ),
}


def write(tmp_path, mutate):
    content = good()
    mutate(content)
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return path


def read(path, folder):
    """Read, register and check a json as a training does, and return the split and the report."""
    split = read_coco_split(path, folder)
    register_split(NAME, path, folder)
    assert read_coco(MetadataCatalog.get(NAME).json_file, image_root=folder).defects == ()
    masks = all(entry.get("segmentation") for entry in split.content["annotations"])
    found = check_coco(split, train=True, masks="bitmask" if masks else "")
    return split, Report((*split.defects, *found))


def truth_as_prediction():
    """Return the AP of a registered dataset's own boxes and masks, read by detectron2's loader."""
    records = DatasetCatalog.get(NAME)
    masks = all("segmentation" in a for r in records for a in r["annotations"])
    evaluator = COCOEvaluator(NAME, ("bbox", "segm") if masks else ("bbox",), distributed=False)
    evaluator.reset()
    for record in records:
        size, annotations = (record["height"], record["width"]), record["annotations"]
        instances = Instances(size)
        boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4).float()
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.full((len(boxes),), 0.9)
        instances.pred_classes = torch.tensor([a["category_id"] for a in annotations])
        if masks:
            instances.pred_masks = masks_of(annotations, size)
        evaluator.process([record], [{"instances": instances}])
    with contextlib.redirect_stdout(io.StringIO()):
        results = evaluator.evaluate()
    return [results[task]["AP"] for task in results]


def masks_of(annotations, size):
    segmentations = [a["segmentation"] for a in annotations]
    if isinstance(segmentations[0], dict):
        return torch.from_numpy(np.stack([coco_mask.decode(s) for s in segmentations])).bool()
    polygons = PolygonMasks([[np.array(p, float) for p in s] for s in segmentations])
    return BitMasks.from_polygon_masks(polygons, *size).tensor


@pytest.mark.parametrize("name", TAKEN)
def test_what_has_one_meaning_is_taken_as_that(name, folder, tmp_path):
    mutate, said = TAKEN[name]
    path = write(tmp_path, mutate)
    before = path.read_bytes()
    split, report = read(path, folder)
    assert not report.has_errors, report.summary()
    assert said in report.summary()
    assert bool(said) == bool(report.defects)
    assert [len(split.content[key]) for key in ("images", "annotations")] == [4, 12]
    assert truth_as_prediction() == pytest.approx([100, 100])
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_named(name, folder, tmp_path):
    mutate, said = REFUSED[name]
    path = write(tmp_path, mutate)
    try:
        _, report = read(path, folder)
    except ValueError as error:
        message = str(error)
    else:
        message = report.errors.summary()
    assert str(path) in message
    assert said in message
    assert max(map(len, message.splitlines())) < 1000


@pytest.mark.parametrize("name", NOTED)
def test_what_may_be_meant_is_noted(name, folder, tmp_path):
    mutate, said = NOTED[name]
    _, report = read(write(tmp_path, mutate), folder)
    assert not report.has_errors, report.summary()
    assert said in report.summary()


def test_a_byte_order_mark_is_taken(folder, tmp_path):
    path = write(tmp_path, lambda content: None)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    split, _ = read(path, folder)
    assert [defect.kind for defect in split.defects] == [kinds.BOM]
    assert truth_as_prediction() == pytest.approx([100, 100])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: text.replace("nut", "螺母").encode("gbk"), "save it as UTF-8"),
        (lambda text: text[: len(text) // 2].encode(), "is not a JSON file"),
    ],
)
def test_text_that_cannot_be_read_is_named(folder, tmp_path, change, said):
    path = write(tmp_path, lambda content: None)
    path.write_bytes(change(path.read_text()))
    with pytest.raises(ValueError, match=said) as error:
        read_coco_split(path, folder)
    assert str(path) in str(error.value)


def test_a_copy_goes_when_the_json_is_corrected(folder, tmp_path):
    path = write(tmp_path, each("iscrowd", None))
    read(path, folder)
    assert MetadataCatalog.get(NAME).json_file != str(path)
    # As another process of the run does, which has not read the json.
    register_split(NAME, path, folder)
    assert truth_as_prediction() == pytest.approx([100, 100])
    path.write_text(json.dumps(good()))
    read(path, folder)
    assert MetadataCatalog.get(NAME).json_file == str(path)


def test_a_root_that_the_training_had_as_a_class_stays(folder, tmp_path):
    path = write(tmp_path, roboflow)
    assert read_coco_split(path, folder).root == (0, "parts")
    kept = read_coco_split(path, folder, keep_root=True)
    assert kept.root is None
    assert list(kept.categories) == [0, 1, 2]
    assert read_categories(path, count=2) == {1: "nut", 2: "bolt"}
    assert list(read_categories(path, count=3)) == [0, 1, 2]
