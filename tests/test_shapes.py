import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from regnet_backbones import shapes
from regnet_backbones.shapes import SPLITS, ShapesSpec, draw, trace, write

REPOSITORY = Path(__file__).resolve().parents[1]
SPEC = ShapesSpec(num_train=24, num_val=8, image_size=96)
TINY = ShapesSpec(num_train=2, num_val=1, image_size=64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "shapes", SPEC)


@pytest.fixture(scope="module", params=SPLITS)
def split(request):
    return request.param


def contents(root):
    """Every file below a folder and its bytes."""
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read(path):
    return np.asarray(Image.open(path))


def panoptic(dataset, split):
    """Pairs of a panoptic annotation and its decoded id map."""
    for annotation in json.loads(dataset.panoptic_json(split).read_text())["annotations"]:
        red, green, blue = np.moveaxis(
            read(dataset.panoptic_masks(split) / annotation["file_name"]).astype(int), 2, 0
        )
        yield annotation, red + 256 * green + 65536 * blue


def instances(dataset, split):
    """Pairs of an instance annotation and its mask in the panoptic PNG."""
    coco = COCO(dataset.instances_json(split))
    for annotation, ids in panoptic(dataset, split):
        found = coco.loadAnns(coco.getAnnIds(imgIds=annotation["image_id"]))
        things = [s for s in annotation["segments_info"] if s["category_id"] <= 5]
        assert len(found) == len(things) > 0
        for instance, segment in zip(found, things, strict=True):
            for key in ("category_id", "area", "bbox", "iscrowd"):
                assert instance[key] == segment[key]
            yield instance, ids == segment["id"]


def rasterise(polygons, height, width):
    flat = [np.asarray(polygon, float).ravel().tolist() for polygon in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, height, width))) > 0


def is_traced(polygon):
    """Traced outlines run along pixel edges, drawn ones do not."""
    return bool(np.all(polygon == polygon.round()))


# Reproducibility


def test_same_spec_same_bytes_in_another_process(tmp_path):
    here = write(tmp_path / "here", TINY)
    program = (
        "from regnet_backbones.shapes import ShapesSpec, write; "
        f"write({str(tmp_path / 'there')!r}, ShapesSpec(num_train=2, num_val=1, image_size=64))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, env=environment)
    assert len(contents(here.root)) == 3 * 6 + 6 + 2  # 6 PNGs per image, 6 json, spec, classes
    assert contents(here.root) == contents(tmp_path / "there")


def test_images_do_not_depend_on_how_many_there_are(tmp_path):
    small = write(tmp_path / "small", TINY)
    large = write(tmp_path / "large", ShapesSpec(num_train=4, num_val=3, image_size=64))
    pngs = {path for path in contents(small.root) if path.suffix == ".png"}
    assert len(pngs) == 18
    assert all(contents(small.root)[path] == contents(large.root)[path] for path in pngs)


def test_seeds_splits_and_indices_draw_different_images():
    other = ShapesSpec(num_train=24, num_val=8, image_size=96, seed=1)
    drawn = [draw(SPEC, "train", 0), draw(SPEC, "train", 1), draw(SPEC, "val", 0)]
    drawn.append(draw(other, "train", 0))
    assert len({sample.image.tobytes() for sample in drawn}) == 4


# What is drawn


def test_sample_arrays():
    sample = draw(SPEC, "train", 3)
    assert sample.image.shape == (96, 96, 3)
    assert sample.image.dtype == np.uint8
    assert sample.instances.shape == (96, 96)
    assert set(np.unique(sample.instances)) == set(range(len(sample.categories) + 1))
    assert len(sample.polygons) == len(sample.categories) == len(sample.keypoints)
    assert all(points.shape == (5, 3) for points in sample.keypoints)


def test_every_class_occurs_and_sizes_vary(dataset, split):
    categories = {instance["category_id"] for instance, _ in instances(dataset, split)}
    assert categories == {1, 2, 3, 4, 5}
    sides = [max(instance["bbox"][2:]) for instance, _ in instances(dataset, split)]
    assert min(sides) < 20
    assert max(sides) > 45


def test_shapes_hide_each_other():
    hidden = sum(
        any(is_traced(p) and p.min() > 0 and p.max() < SPEC.image_size for p in polygons)
        for index in range(40)
        for polygons in draw(SPEC, "train", index).polygons
    )
    assert hidden >= 10


def test_masks_are_not_shifted_against_outlines(monkeypatch):
    monkeypatch.setattr(shapes.drawing, "MAX_OVERLAP", 0.0)
    spec = ShapesSpec()
    shifts = []
    for index in range(40):
        sample = draw(spec, "train", index)
        for k, polygons in enumerate(sample.polygons, 1):
            rows, columns = np.nonzero(sample.instances == k)
            centre = np.array([columns.mean(), rows.mean()]) + 0.5
            shifts.append(centre - polygons[0].mean(axis=0))
    assert len(shifts) > 60
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.05


def test_shapes_stand_out_from_what_surrounds_them(monkeypatch):
    monkeypatch.setattr(shapes.drawing, "MIN_SHAPES", 1)
    monkeypatch.setattr(shapes.drawing, "MAX_SHAPES", 1)
    distances = []
    for index in range(20):
        sample = draw(ShapesSpec(), "train", index)
        inside = sample.image[sample.instances == 1].mean(axis=0)
        outside = sample.image[sample.instances == 0].mean(axis=0)
        distances.append(np.linalg.norm(inside - outside))
    assert min(distances) > 30


# Tracing


def test_trace_of_a_rectangle():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    (polygon,) = trace(mask)
    assert {tuple(point) for point in polygon.tolist()} == {(1, 1), (4, 1), (4, 3), (1, 3)}


def test_trace_keeps_pixels_that_touch_by_a_corner_apart():
    assert [len(polygon) for polygon in trace(np.eye(3))] == [4, 4, 4]


def test_trace_opens_holes():
    ring = np.ones((5, 7), bool)
    ring[2, 2:5] = False
    polygons = trace(ring)
    assert len(polygons) == 2
    np.testing.assert_array_equal(rasterise(polygons, 5, 7), ring)


def test_trace_rasterises_back_exactly():
    rng = np.random.default_rng(0)
    for density in (0.2, 0.5, 0.8) * 4:
        mask = rng.random((14, 17)) < density
        np.testing.assert_array_equal(rasterise(trace(mask), 14, 17), mask)


def test_trace_of_nothing():
    assert trace(np.zeros((4, 4), bool)) == []


# Files


def test_images_are_what_draw_returns(dataset, split):
    images = json.loads(dataset.instances_json(split).read_text())["images"]
    assert len(images) == {"train": 24, "val": 8}[split]
    assert len({image["id"] for image in images}) == len(images)
    for index, image in enumerate(images[:5]):
        pixels = read(dataset.images(split) / image["file_name"])
        assert pixels.shape == (image["height"], image["width"], 3)
        np.testing.assert_array_equal(pixels, draw(SPEC, split, index).image)
        np.testing.assert_array_equal(
            pixels, read(dataset.semantic_images(split) / image["file_name"])
        )


def test_polygons_rasterise_back_to_the_visible_masks(dataset, split):
    coco = COCO(dataset.instances_json(split))
    overlaps = []
    for instance, mask in instances(dataset, split):
        polygon_mask = coco.annToMask(instance) > 0
        overlap = (polygon_mask & mask).sum() / (polygon_mask | mask).sum()
        assert overlap >= 0.9 or mask.sum() < 100
        overlaps.append(overlap)
    assert np.mean(overlaps) >= 0.95


def test_boxes_are_tight_and_areas_right(dataset, split):
    for instance, mask in instances(dataset, split):
        x, y, width, height = instance["bbox"]
        assert mask.sum() == instance["area"] == mask[y : y + height, x : x + width].sum()
        box = mask[y : y + height, x : x + width]
        assert box.shape == (height, width)
        assert all(side.any() for side in (box[0], box[-1], box[:, 0], box[:, -1]))


def test_instance_ids_are_unique(dataset, split):
    annotations = json.loads(dataset.instances_json(split).read_text())["annotations"]
    assert len({annotation["id"] for annotation in annotations}) == len(annotations)


def test_panoptic_segments_cover_every_pixel(dataset, split):
    for annotation, ids in panoptic(dataset, split):
        segments = annotation["segments_info"]
        assert {segment["id"] for segment in segments} == set(np.unique(ids))
        assert [segment["area"] for segment in segments] == [
            (ids == segment["id"]).sum() for segment in segments
        ]
        assert sum(segment["area"] for segment in segments) == 96 * 96
        assert [segment["category_id"] for segment in segments].count(6) == 1


def test_hidden_background_is_no_segment(tmp_path, monkeypatch):
    full = shapes.Sample(
        image=np.zeros((64, 64, 3), np.uint8),
        instances=np.ones((64, 64), np.int32),
        categories=(2,),
        polygons=([np.array([(0, 0), (64, 0), (64, 64), (0, 64)])],),
        keypoints=(np.zeros((5, 3)),),
    )
    monkeypatch.setattr(shapes.files, "draw", lambda spec, split, index: full)
    for annotation, _ in panoptic(write(tmp_path / "shapes", TINY), "train"):
        assert [segment["category_id"] for segment in annotation["segments_info"]] == [2]


def test_categories(dataset, split):
    def described(path):
        categories = json.loads(path.read_text())["categories"]
        return [(c["id"], c["name"], c["isthing"]) for c in categories]

    things = [
        (1, "circle", 1),
        (2, "square", 1),
        (3, "triangle", 1),
        (4, "star", 1),
        (5, "cross", 1),
    ]
    assert described(dataset.instances_json(split)) == things
    assert described(dataset.panoptic_json(split)) == [*things, (6, "background", 0)]


def test_semantic_masks_agree_with_panoptic(dataset, split):
    for annotation, ids in panoptic(dataset, split):
        labels = Image.open(dataset.semantic_masks(split) / annotation["file_name"])
        assert labels.mode == "L"
        for segment in annotation["segments_info"]:
            under = np.asarray(labels)[ids == segment["id"]]
            assert set(under.tolist()) == {segment["category_id"]}


def test_masks_for_detectron2_agree_with_semantic_masks(dataset, split):
    """They count from 0, and in those of stuff things are 0 and the background is 1."""
    files = sorted(dataset.semantic_masks(split).iterdir())
    assert len(files) == {"train": 24, "val": 8}[split]
    for file in files:
        labels = read(file).astype(int)
        from_zero = Image.open(dataset.semantic_masks_from_zero(split) / file.name)
        stuff = Image.open(dataset.stuff_masks(split) / file.name)
        assert from_zero.mode == stuff.mode == "L"
        np.testing.assert_array_equal(from_zero, labels - 1)
        np.testing.assert_array_equal(stuff, labels == 6)


def test_class_list(dataset):
    assert (dataset.root / "semantic" / "objectInfo.txt").read_text() == (
        "Idx\tName\n1\tcircle\n2\tsquare\n3\ttriangle\n4\tstar\n5\tcross\n6\tbackground\n"
    )


# Existing folders


def test_same_spec_is_not_drawn_again(tmp_path):
    first = write(tmp_path / "shapes", TINY)
    stamp = first.instances_json("train").stat().st_mtime_ns
    second = write(tmp_path / "shapes", TINY)
    assert (first.written, second.written) == (True, False)
    assert second.instances_json("train").stat().st_mtime_ns == stamp


def test_another_spec_is_refused_then_overwritten(tmp_path):
    old = write(tmp_path / "shapes", TINY)
    before = contents(old.root)
    other = ShapesSpec(num_train=1, num_val=1, image_size=64)
    with pytest.raises(ValueError, match=r"another shapes dataset.*--overwrite"):
        write(tmp_path / "shapes", other)
    assert contents(old.root) == before
    new = write(tmp_path / "shapes", other, overwrite=True)
    assert new.written
    assert [path.name for path in new.images("train").iterdir()] == ["000000.png"]


def test_a_folder_of_another_version_says_how_to_draw_it_again(tmp_path):
    dataset = write(tmp_path / "shapes", TINY)
    shapes.check_drawn(dataset.root)
    record = json.loads((dataset.root / "spec.json").read_text())
    (dataset.root / "spec.json").write_text(json.dumps({**record, "version": 1}))
    with pytest.raises(ValueError, match=r"of another version.*shapes --overwrite"):
        shapes.check_drawn(dataset.root)
    with pytest.raises(ValueError, match="another shapes dataset"):
        write(dataset.root, TINY)
    write(dataset.root, TINY, overwrite=True)
    shapes.check_drawn(dataset.root)
    with pytest.raises(FileNotFoundError, match=r"shapes --output .*/gone$"):
        shapes.check_drawn(tmp_path / "gone")


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_are_left_alone(tmp_path, overwrite):
    (tmp_path / "spec.json").write_text('{"spec": {}}')
    with pytest.raises(ValueError, match="not a shapes dataset"):
        write(tmp_path, TINY, overwrite=overwrite)
    with pytest.raises(ValueError, match="not a shapes dataset"):
        write(tmp_path / "spec.json", TINY, overwrite=overwrite)
    assert contents(tmp_path) == {Path("spec.json"): b'{"spec": {}}'}


def test_empty_folder_is_used(tmp_path):
    assert write(tmp_path, TINY).written


def test_interrupted_run_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    old = write(tmp_path / "shapes", TINY)
    before = contents(tmp_path)
    monkeypatch.setattr(shapes.files, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new", TINY)
    with pytest.raises(KeyboardInterrupt):
        write(old.root, TINY, overwrite=True)
    assert contents(tmp_path) == before


# Errors


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_train", 0), ("num_val", -1), ("image_size", 16), ("seed", -1)],
)
def test_bad_specs(field, value):
    with pytest.raises(ValueError, match=f"{field} must be at least .*{value}"):
        ShapesSpec(**{field: value})
