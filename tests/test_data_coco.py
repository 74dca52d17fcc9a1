"""COCO jsons: lists and ids of other files are named, masks are told from what gives garbage."""

import json

import numpy as np
import pytest
from coco_rle import rle_of
from pycocotools import mask as coco_mask

from regnet_backbones.data.coco import is_mask, read_coco_json, root_category
from regnet_backbones.errors import UserError

IMAGE, CATEGORY = {"id": 1, "file_name": "a.png"}, {"id": 1, "name": "a"}
GOOD = {"images": [IMAGE], "annotations": [], "categories": [CATEGORY], "info": {"year": 2020}}
SIZE = [48, 64]
PIXELS = SIZE[0] * SIZE[1]


def masks():
    """Return noise of all densities, long runs, and masks of one value."""
    draws = np.random.default_rng(0)
    noise = [draws.random(SIZE) < part for part in np.linspace(0, 1, 21)]
    long = [np.kron(mask[:6, :4], np.ones((8, 16))) for mask in noise]
    return [mask.astype(bool) for mask in noise + long]


def in_groups(*runs, groups):
    """Return up to three runs in compressed text, each in so many groups of 5 bits."""
    pieces = [[(run >> 5 * k & 31) | 32 for k in range(groups)] for run in runs]
    return "".join(chr(48 + g) for *most, last in pieces for g in (*most, last & 31))


def test_masks_are_known_in_both_forms():
    for mask in masks():
        text, runs = (rle_of(mask, compressed=form)["counts"] for form in (True, False))
        assert is_mask({"size": SIZE, "counts": text}, SIZE)
        assert is_mask({"size": SIZE, "counts": runs}, SIZE)
        for wrong in (text[:-1], text + "1", text + "o", runs[:-1], [*runs, 1]):
            assert not is_mask({"size": SIZE, "counts": wrong}, SIZE)
        assert not is_mask({"size": SIZE, "counts": text}, SIZE[::-1])
        assert not is_mask({"size": SIZE[::-1], "counts": text}, SIZE)


def test_groups_are_read_as_pycocotools_does():
    for groups in (3, 6):
        text = in_groups(1000, PIXELS - 1000, groups=groups)
        assert is_mask({"size": SIZE, "counts": text}, SIZE)
        assert coco_mask.area({"size": SIZE, "counts": text.encode()}) == PIXELS - 1000
    assert not is_mask({"size": SIZE, "counts": in_groups(1000, PIXELS - 1000, groups=7)}, SIZE)


@pytest.mark.parametrize(
    "counts",
    [
        *("", "0", "00", "04", "04o", "zz", "\n", "\0", "é", "٣", "PP3" * 99, "o" * 99),
        *([], [PIXELS + 5, -5], [float(PIXELS)], [str(PIXELS)], [[PIXELS]], [True] * PIXELS),
        *(None, PIXELS, {}, {"0": PIXELS}),
    ],
)
def test_other_counts_are_not_masks(counts):
    assert not is_mask({"size": SIZE, "counts": counts}, SIZE)


def test_images_that_overflow_pycocotools_have_no_masks():
    side = 2**15
    rle = {"size": [side, side], "counts": [side**2 - 5, 5]}
    assert not is_mask(rle, [side, side])
    assert not is_mask({}, SIZE)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([], "images must be a list of objects"),
        ({}, "images must be a list of objects"),
        ({**GOOD, "images": []}, r"images must be .*\[\]"),
        ({**GOOD, "annotations": None}, "annotations must be .*None"),
        ({**GOOD, "categories": [CATEGORY, 7]}, "categories must be .*7"),
        ({**GOOD, "images": [IMAGE, {"id": 2}]}, r"images\[1\] .*file_name.*{'id': 2}"),
        ({**GOOD, "images": [{**IMAGE, "file_name": 3}]}, r"images\[0\] .*file_name"),
        ({**GOOD, "categories": [{"name": "a"}]}, r"categories\[0\] .*id"),
        ({**GOOD, "categories": [{**CATEGORY, "id": [1]}]}, r"categories\[0\] .*id"),
        ({**GOOD, "categories": [CATEGORY, {"id": "1", "name": "b"}]}, "two of 'categories'.*1"),
    ],
)
def test_other_files_are_named(content, match, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(GOOD))
    assert read_coco_json(path) == GOOD
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"data.json.*{match}"):
        read_coco_json(path)


@pytest.mark.parametrize(
    ("supercategories", "used", "root"),
    [
        ([None, "a", "a"], {"1", "2"}, 0),
        (["a", "a", "a"], {"1"}, 0),
        (["b", None, "b"], {"2"}, 1),
        ([None, "a", "a"], {"0", "1"}, None),  # it has objects
        ([None, "a", "none"], {"1", "2"}, None),
        ([None, "a", ["a"]], {"1", "2"}, None),
        ([None], set(), None),
    ],
)
def test_the_root_is_only_a_supercategory(supercategories, used, root):
    categories = [
        {"id": number, "name": "abc"[number], "supercategory": above}
        for number, above in enumerate(supercategories)
    ]
    assert root_category(categories, used) is (None if root is None else categories[root])
