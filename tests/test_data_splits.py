"""One dataset in two parts: seeded, with each class in both, scenes kept together."""

import copy
import random
from collections import Counter

import pytest

from regnet_backbones.data.splits import class_table, split
from regnet_backbones.errors import UserError


def dataset(images=60, seed=0, scenes=0):
    """Return a COCO json of a common class, a rare one, one in two images, and empty images."""
    draws = random.Random(seed)
    content = {"images": [], "annotations": [], "licenses": [{"id": 1}]}
    content["categories"] = [{"id": k, "name": name} for k, name in ((3, "a"), (1, "b"), (7, "c"))]
    for number in range(images):
        scene = draws.randrange(scenes) if scenes else number
        name = f"s{scene:03d}_{number:03d}.jpg"
        content["images"].append({"id": number, "file_name": name, "width": 8, "height": 8})
        labels = [3] * draws.choice((0, 1, 4)) + [1] * (number % 6 == 0) + [7] * (number in (5, 9))
        for label in labels:
            entry = {"id": len(content["annotations"]), "image_id": number, "category_id": label}
            content["annotations"].append({**entry, "bbox": [1, 1, 4, 4]})
    return content


def images_of(content, label):
    return {a["image_id"] for a in content["annotations"] if a["category_id"] == label}


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_both_parts_are_whole_and_each_class_is_shared_out(seed, fraction):
    whole = dataset(seed=seed)
    before = copy.deepcopy(whole)
    parts = split(whole, fraction, seed=seed)
    assert whole == before
    train, val = parts["train"], parts["val"]
    for key in ("images", "annotations"):
        both = train[key] + val[key]
        assert sorted(both, key=lambda e: e["id"]) == whole[key]
        assert [e["id"] for e in val[key]] == sorted(e["id"] for e in val[key])
    for part in (train, val):
        ids = {image["id"] for image in part["images"]}
        assert {a["image_id"] for a in part["annotations"]} <= ids
        assert part["categories"] == whole["categories"]
        assert part["licenses"] == whole["licenses"]
    assert len(val["images"]) == pytest.approx(fraction * 60, abs=2)
    for label in (3, 1):
        expected = fraction * len(images_of(whole, label))
        assert len(images_of(val, label)) == pytest.approx(expected, abs=1.5)
    assert len(images_of(train, 7)) == len(images_of(val, 7)) == 1


def test_the_seed_decides():
    whole = dataset()
    names = [
        tuple(image["file_name"] for image in split(whole, 0.2, seed=seed)["val"]["images"])
        for seed in (0, 0, 1, 2)
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3


@pytest.mark.parametrize("seed", range(4))
def test_scenes_are_kept_together(seed):
    whole = dataset(200, seed=seed, scenes=30)
    parts = split(whole, 0.2, seed=seed, group=r"^s(\d+)_")
    scenes = [{i["file_name"][:4] for i in part["images"]} for part in parts.values()]
    assert not scenes[0] & scenes[1]
    assert len(parts["val"]["images"]) == pytest.approx(40, abs=8)
    assert len(images_of(parts["val"], 1)) == pytest.approx(0.2 * len(images_of(whole, 1)), abs=5)


def test_a_class_of_a_single_scene_and_two_images():
    whole = dataset(2)
    whole["annotations"] = whole["annotations"][:0]
    parts = split(whole, 0.01)
    assert [len(part["images"]) for part in parts.values()] == [1, 1]
    whole = dataset(10)
    whole["annotations"] = [{"id": 1, "image_id": 4, "category_id": 1}]
    assert images_of(split(whole, 0.3)["train"], 1) == {4}


@pytest.mark.parametrize("kind", [str, float])
def test_ids_of_other_types_find_their_images(kind):
    whole = dataset()
    for entry in whole["annotations"]:
        entry["image_id"] = kind(entry["image_id"])
    parts = split(whole, 0.2)
    plain = split(dataset(), 0.2)
    for part in parts:
        assert [a["id"] for a in parts[part]["annotations"]] == [
            a["id"] for a in plain[part]["annotations"]
        ]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fraction": 0.0}, "--val-fraction"),
        ({"fraction": 1.0}, "--val-fraction"),
        ({"fraction": float("nan")}, "--val-fraction"),
        ({"group": "("}, "--group"),
        ({"group": "^s"}, "--group"),
        ({"group": "^(x)"}, "s000_000.jpg"),
        ({"group": "^(s)"}, "--group"),
    ],
)
def test_what_cannot_be_split_is_an_error(options, match):
    with pytest.raises(UserError, match=match):
        split(dataset(), **{"fraction": 0.2, **options})


def test_the_table_counts_objects_and_images():
    whole = dataset()
    parts = split(whole, 0.25)
    headers, rows = class_table(parts)
    assert headers[0] == "class"
    assert len(headers) == 5
    counted = Counter(a["category_id"] for a in whole["annotations"])
    assert [row[0] for row in rows] == ["a", "b", "c", "all"]
    for row, label in zip(rows, (3, 1, 7), strict=False):
        assert row[1] + row[3] == counted[label]
        assert row[2] + row[4] == len(images_of(whole, label))
    assert rows[-1][1] + rows[-1][3] == len(whole["annotations"])
