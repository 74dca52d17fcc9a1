"""Keypoints of the demo dataset: where they are, what is seen of them, and COCO's json."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regnet_backbones.shapes import (
    CATEGORIES,
    KEYPOINTS,
    SKELETON,
    ShapesSpec,
    draw,
    drawing,
    write,
)
from regnet_backbones.shapes.geometry import locate, outline, with_visibility

TOP, RIGHT, BOTTOM, LEFT, CENTER = range(5)


def leaning(name, degrees):
    """Outline of a shape of 40 by 32 pixels around (50, 60) that leans to the right."""
    unit = outline(np.random.default_rng(0), name) * (1, 0.8)
    angle = np.radians(degrees)
    rotation = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return 40 * unit @ rotation + (50, 60)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = ShapesSpec(num_train=1, num_val=20, image_size=96)
    return write(tmp_path_factory.mktemp("data") / "shapes", spec)


# Where they are


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("circle", [(50, 44), (70, 60), (50, 76), (30, 60), (50, 60)]),
        ("square", [(50, 44), (70, 60), (50, 76), (30, 60), (50, 60)]),
        # 0.58 * 40 * cos(30 degrees) = 20.092; 0.58 * 32 = 18.56.
        ("triangle", [(50, 41.44), (70.092, 69.28), (50, 69.28), (29.908, 69.28), (50, 60)]),
        ("cross", [(50, 44), (70, 60), (50, 76), (30, 60), (50, 60)]),
    ],
)
def test_upright_shapes(name, expected):
    np.testing.assert_allclose(locate(name, leaning(name, 0)), expected, atol=1e-3)


def test_an_upright_star():
    """Its tips are 0.55 from the centre and 72 degrees apart; the notches are nearer."""
    points = locate("star", leaning("star", 0))
    # 22 * cos(18 degrees) = 20.923; 17.6 * sin(18 degrees) = 5.439.
    expected = [(50, 42.4), (70.923, 54.561), (29.077, 54.561), (50, 60)]
    np.testing.assert_allclose(points[[TOP, RIGHT, LEFT, CENTER]], expected, atol=1e-3)
    assert points[BOTTOM][0] == pytest.approx(50)
    assert 60 + 0.4 * 17.6 <= points[BOTTOM][1] <= 60 + 0.5 * 17.6


def test_ends_of_a_leaning_ellipse_are_those_of_its_picture():
    t = np.radians(np.arange(0, 360, 0.01))
    c, s = np.cos(np.radians(17)), np.sin(np.radians(17))
    x, y = 20 * np.cos(t) * c - 16 * np.sin(t) * s, 20 * np.cos(t) * s + 16 * np.sin(t) * c
    ends = [(x[i] + 50, y[i] + 60) for i in (y.argmin(), x.argmax(), y.argmax(), x.argmin())]
    np.testing.assert_allclose(locate("circle", leaning("circle", 17))[:4], ends, atol=0.01)


@pytest.mark.parametrize("name", CATEGORIES)
def test_a_mirrored_shape_has_the_mirrored_keypoints(name):
    points, mirrored = (locate(name, leaning(name, degrees)) for degrees in (20, -20))
    exchanged = points[[TOP, LEFT, BOTTOM, RIGHT, CENTER]]
    np.testing.assert_allclose(mirrored, exchanged * (-1, 1) + (100, 0), atol=1e-9)


def test_they_are_at_the_ends_of_what_is_drawn(monkeypatch):
    for name, value in (("MIN_SHAPES", 1), ("MAX_SHAPES", 1), ("MAX_OVERLAP", 0), ("MAX_TILT", 0)):
        monkeypatch.setattr(drawing, name, value)
    spec = ShapesSpec()
    seen = set()
    for index in range(30):
        sample = draw(spec, "train", index)
        name, (points,) = CATEGORIES[sample.categories[0] - 1], sample.keypoints
        if points[:, 2].min() == 0:
            continue  # a thin tip that reaches out of the image
        assert points[:, 2].tolist() == [2] * 5
        rows, columns = np.nonzero(sample.instances)
        ends = [points[TOP][1], points[RIGHT][0], points[LEFT][0]]
        # Thin tips cover less than half of their last pixels.
        expected = [rows.min(), columns.max() + 1, columns.min()]
        assert ends == pytest.approx(expected, abs=3 if name in ("star", "triangle") else 1)
        if name != "star":
            assert points[BOTTOM][1] == pytest.approx(rows.max() + 1, abs=1)
        x, y = points[CENTER][:2].astype(int)
        assert sample.instances[y, x] == 1
        seen.add(name)
    assert seen == set(CATEGORIES)


def test_what_lies_over_a_point_hides_it_and_outside_it_is_not_labelled():
    instances = np.array([[1, 1, 2, 2], [1, 1, 2, 3]])
    points = np.array([(0.5, 0.5), (2.0, 0.9), (3.5, 1.9), (4.0, 0.5), (1.5, -0.1)])
    expected = [(0.5, 0.5, 2), (2.0, 0.9, 1), (3.5, 1.9, 1), (0, 0, 0), (0, 0, 0)]
    assert with_visibility(points, instances, 1).tolist() == [list(point) for point in expected]
    # The instance below hides nothing of the one above.
    assert with_visibility(points, instances, 2)[:, 2].tolist() == [2, 2, 1, 0, 0]


# Files


def test_the_json_has_what_coco_has(dataset):
    instances, content = (
        json.loads(path.read_text())
        for path in (dataset.instances_json("val"), dataset.keypoints_json("val"))
    )
    assert content["images"] == instances["images"]
    for category in content["categories"]:
        assert category["keypoints"] == list(KEYPOINTS)
        assert [tuple(KEYPOINTS[i - 1] for i in line) for line in category["skeleton"]] == list(
            SKELETON
        )
    flags = set()
    for annotation, instance in zip(content["annotations"], instances["annotations"], strict=True):
        sample = draw(dataset.spec, "val", annotation["image_id"] - 1)
        triples = np.array(annotation.pop("keypoints")).reshape(5, 3)
        assert annotation.pop("num_keypoints") == (triples[:, 2] > 0).sum()
        assert annotation == instance
        assert (triples[triples[:, 2] == 0] == 0).all()
        flags |= set(triples[:, 2].tolist())
        # The middle of the first pixel is (0, 0) in the file and (0.5, 0.5) in a sample.
        drawn = {tuple(points[CENTER][:2].round(2)) for points in sample.keypoints}
        if triples[CENTER, 2] > 0:
            assert tuple((triples[CENTER, :2] + 0.5).round(2)) in drawn
    assert flags == {0, 1, 2}


def test_the_truth_has_an_ap_of_one(dataset):
    """Left and right exchanged have less."""
    truth = COCO(str(dataset.keypoints_json("val")))
    results = [
        {key: a[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 1.0}
        for a in truth.dataset["annotations"]
    ]

    def average_precision(results):
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.full(5, 0.05)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats[0]

    assert average_precision(results) == pytest.approx(1)
    for result in results:
        triples = np.array(result["keypoints"]).reshape(5, 3)
        result["keypoints"] = triples[[TOP, LEFT, BOTTOM, RIGHT, CENTER]].ravel().tolist()
    # Three of five are where they were: a similarity of 0.6, too little for most thresholds.
    assert average_precision(results) < 0.5
