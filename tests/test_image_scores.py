"""Scores of single images against what was worked out by hand, and the files that hold them."""

import json
import os

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from regnet_backbones.detection.pictures import f1, match_objects, mean_iou
from regnet_backbones.runs.results import (
    ImageResults,
    ImageScore,
    ScoredImages,
    best_and_worst,
    read_evaluation,
    write_images,
    write_results,
)
from regnet_backbones.runs.trained import Trained


def truth(*given, **more):
    """Return annotations of boxes that are (category, x, y, width, height)."""
    return [{"category_id": category, "bbox": box, **more} for category, *box in given]


def found(*given):
    """Return instances of boxes that are (class, x, y, width, height), the surest last."""
    boxes = torch.tensor([box for _, *box in given]).view(-1, 4).float()
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances((50, 50), pred_boxes=Boxes(boxes))
    instances.pred_classes = torch.tensor([label for label, *_ in given])
    instances.scores = torch.arange(1, len(given) + 1) / 10
    return instances


SQUARE = (1, 0, 0, 10, 10)


@pytest.mark.parametrize(
    ("objects", "seen", "expected"),  # found, missed, made up, F1
    [
        (  # one object is found once, by the surest
            truth(SQUARE, (1, 20, 20, 10, 10)),
            found((1, 35, 0, 5, 5), (1, 0, 0, 10, 9), SQUARE),
            (1, 1, 2, 0.4),
        ),
        (truth((2, 0, 0, 10, 10)), found(SQUARE), (0, 1, 1, 0)),
        ([], None, (0, 0, 0, None)),
        ([], found(SQUARE), (0, 0, 1, 0)),
        (truth(SQUARE), None, (0, 1, 0, 0)),
        (truth((1, 0, 0, 40, 40), iscrowd=1), found((1, 5, 5, 10, 10)), (0, 0, 0, None)),
        (truth(SQUARE), found((1, 0, 0, 10, 5.1)), (1, 0, 0, 1)),  # IoU 0.51
        (truth(SQUARE), found((1, 0, 0, 10, 4.9)), (0, 1, 1, 0)),
        (
            truth((1, 5, 5, 10, 10), bbox_mode=BoxMode.XYXY_ABS),
            found((1, 5, 5, 5, 5)),
            (1, 0, 0, 1),
        ),
    ],
)
def test_objects_are_matched_as_coco_does(objects, seen, expected):
    counts = match_objects(objects, seen)
    assert (*counts, f1(*counts)) == expected
    assert {type(count) for count in counts} == {int}  # for a JSON file


def test_mean_iou_is_over_the_classes_that_are_there():
    truth = np.array([[0, 0, 0], [1, 1, 255]], np.uint8)
    found = mean_iou(truth, np.array([[0, 0, 1], [1, 1, 3]]), classes=4, ignore=255)
    assert found == pytest.approx((2 / 3 + 2 / 3) / 2)
    # A class that is only predicted counts with 0.
    found = mean_iou(truth[0], np.array([0, 0, 2]), classes=4, ignore=255)
    assert found == pytest.approx((2 / 3 + 0) / 2)
    assert mean_iou(truth[1, 2:], np.array([3]), classes=4, ignore=255) is None


def test_the_best_and_the_worst_are_different_images():
    values = [0.5, None, 1.0, 0.1, 1.0, 0.3]
    scores = [ImageScore(str(n), value, found=0, missed=n) for n, value in enumerate(values)]

    def files(*options, **more):
        return [[score.file for score in each] for each in best_and_worst(*options, **more)]

    assert files(scores, count=2) == [["4", "2"], ["3", "5"]]  # of equal ones that of more objects
    assert files(scores) == [["4", "2", "0"], ["3", "5"]]
    assert files(scores[:2]) == [["0"], []]
    assert files([]) == [[], []]


def test_the_best_and_the_worst_are_drawn_and_read_back(tmp_path):
    scored = ScoredImages()
    generator = np.random.default_rng(0)
    for number, value in enumerate(generator.permutation(100).tolist()):
        picture = Image.new("RGB", (value + 1, 5))
        scored.add(ImageScore(f"{number}.png", value / 100), lambda p=picture: p)
    about = {"score": "s", "panels": ("a",), "available": 100, "legend": {"x": (1, 2, 3)}}
    images = ImageResults(
        images=tuple(scored.scores), **scored.draw(tmp_path, scored.scores), **about
    )
    write_images(tmp_path, images)
    assert read_evaluation(tmp_path) is None  # not finished
    settings = {"opts": ["a", "b"]}
    checkpoint = tmp_path / "x.pth"
    checkpoint.write_bytes(b"weights")
    write_results(tmp_path, Trained("detector", checkpoint), results={}, settings=settings)
    os.utime(checkpoint, (2**33, 2**33))  # copied after the evaluation
    assert read_evaluation(tmp_path).is_of(checkpoint)
    assert not read_evaluation(tmp_path).is_of(tmp_path / "y.pth")
    checkpoint.write_bytes(b"weights of another run")
    os.utime(checkpoint, (0, 0))  # which is older
    assert not read_evaluation(tmp_path).is_of(checkpoint)
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    del content["confusion"], content["checkpoint_sha256"]  # as older versions wrote it
    path.write_text(json.dumps(content))
    found = read_evaluation(tmp_path)
    assert (found.checkpoint, found.settings, found.images) == ("x.pth", settings, images)
    assert found.is_of(checkpoint)
    assert images.complete
    assert [images.images[place].score for place in images.best] == [
        *(0.99, 0.98, 0.97, 0.96, 0.95, 0.94)
    ]
    for places, name in ((images.best, "best"), (images.worst, "worst")):
        for number, place in enumerate(places, 1):
            picture = Image.open(tmp_path / "pictures" / f"{name}_{number}.jpg")
            assert picture.width == round(100 * images.images[place].score) + 1
