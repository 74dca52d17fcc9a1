"""COCO jsons for segmenters: masks as pycocotools draws them, smaller objects over larger ones."""

import json

import numpy as np
import pytest
from coco_rle import rle_of
from labelled_folders import HEIGHT, WIDTH, draw
from PIL import Image
from pycocotools.coco import COCO

from regnet_backbones.errors import UserError
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.dataset import check_pairs
from regnet_backbones.semseg.labels import IGNORE

CATEGORIES = [{"id": 9, "name": "cell"}, {"id": 4, "name": "nucleus"}]  # not in their order


def blob(x0, y0, x1, y1):
    """Return an ellipse as a mask."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    middle, radii = ((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 2, (y1 - y0) / 2)
    return ((xs - middle[0]) / radii[0]) ** 2 + ((ys - middle[1]) / radii[1]) ** 2 <= 1


# A small one before the large one below it; two of equal size, of which the later one is on top;
# two polygons; both forms of RLE; a crowd region; one over the border.
SEGMENTATIONS = [
    (4, [[20, 10, 30, 10, 30, 20, 20, 20]]),
    (9, [[5.5, 3.2, 50.1, 4.7, 44, 40, 8.5, 30.25]]),
    (4, [[50, 30, 60, 30, 60, 40, 50, 40]]),
    (9, [[54, 34, 64, 34, 64, 44, 54, 44]]),
    (4, [[1, 40, 9, 40, 9, 47], [12, 40, 20, 41, 16, 47.5]]),
    (9, rle_of(blob(30, 24, 60, 46), compressed=True)),
    (4, rle_of(blob(36, 28, 50, 40), compressed=False)),
    (9, [[-10, 20, 12, 20, 12, 34, -10, 34]]),
]


def write_json(folder, name, segmentations=SEGMENTATIONS, categories=CATEGORIES):
    """Write images and a json, and return its content."""
    content = {"images": [], "annotations": [], "categories": categories}
    for number, items in enumerate((segmentations, [], segmentations[:2]), 1):
        draw(folder / name / f"{number}.png")
        image = {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        content["images"].append(image)
        for category, segmentation in items:
            entry = {"id": len(content["annotations"]) + 1, "image_id": number}
            entry |= {"category_id": category, "segmentation": segmentation}
            entry |= {"bbox": [0, 0, 9, 9], "iscrowd": int(isinstance(segmentation, dict))}
            content["annotations"].append(entry)
    (folder / f"{name}.json").write_text(json.dumps(content))
    return content


def data_of(folder, **options):
    """Return the data of layout "coco"."""
    options = {"crop_size": 32, "batch_size": 1, "num_workers": 0, **options}
    for part in ("train", "val"):
        options |= {f"{part}_json": f"{part}.json", f"{part}_images": part}
    return SegmentationData("coco", str(folder), **options)


def painted(path, names, empty):
    """Paint the masks of a json as pycocotools reads them, each pixel by the smallest object."""
    dataset = COCO(path)
    for number in sorted(dataset.imgs):
        mask = np.full((HEIGHT, WIDTH), empty)
        smallest = np.full((HEIGHT, WIDTH), np.inf)
        for entry in dataset.imgToAnns[number]:
            inside = dataset.annToMask(entry).astype(bool)
            seen = inside & (inside.sum() <= smallest)
            smallest[seen] = inside.sum()
            mask[seen] = names.index(dataset.cats[entry["category_id"]]["name"])
        yield mask


@pytest.mark.parametrize("background", [None, True, False])
def test_masks_are_those_of_pycocotools(background, tmp_path):
    for part in ("train", "val"):
        write_json(tmp_path, part)
    data = data_of(tmp_path, background=background)
    ignored = background is False
    names = ("nucleus", "cell") if ignored else ("background", "nucleus", "cell")
    assert data.class_names == names  # by id
    data.setup()
    expected = list(painted(tmp_path / "train.json", names, IGNORE if ignored else 0))
    assert (expected[0] == names.index("cell")).any()
    plain = data.train_set
    plain.transform = lambda *pair: pair
    for number, mask in enumerate(expected):
        np.testing.assert_array_equal(plain[number]["mask"].numpy(), mask)


def test_numbers_may_be_written_with_a_point(tmp_path):
    for part in ("train", "val"):
        content = write_json(tmp_path, part)
        for entry in content["annotations"]:
            entry |= {key: float(entry[key]) for key in ("image_id", "category_id")}
        content["images"][0]["width"] = float(WIDTH)
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    data = data_of(tmp_path)
    data.setup()
    assert data.label_counts["train"].masks[1] == 2


def test_a_smaller_object_is_seen_whatever_the_order(tmp_path):
    for part, items in (("train", SEGMENTATIONS[:2]), ("val", SEGMENTATIONS[1::-1])):
        write_json(tmp_path, part, items)
    data = data_of(tmp_path)
    data.setup()
    masks = [each.pairs.masks[0].values() for each in (data.train_set, data.val_set)]
    np.testing.assert_array_equal(*masks)
    assert masks[0][15, 25] == data.class_names.index("nucleus")
    assert masks[0][25, 25] == data.class_names.index("cell")


def test_batches_are_trained_on(tmp_path):
    from small_segmenter import train_segmenter

    for part in ("train", "val"):
        write_json(tmp_path, part)
    trainer = train_segmenter(data_of(tmp_path, batch_size=2, crop_size=64))
    assert trainer.global_step == 1


def test_a_background_of_its_own_and_a_root_category(tmp_path):
    own = [{"id": 0, "name": "Background"}, *CATEGORIES]
    root = [{"id": 0, "name": "all", "supercategory": "none"}]
    root += [{**category, "supercategory": "all"} for category in CATEGORIES]
    for categories, names in (
        (own, ("Background", "nucleus", "cell")),
        (root, ("background", "nucleus", "cell")),
    ):
        for part in ("train", "val"):
            write_json(tmp_path, part, categories=categories)
        data = data_of(tmp_path)
        assert data.class_names == names
        data.setup()
        assert set(np.unique(data.train_set.pairs.masks[0].values())) == {0, 1, 2}


def write_panoptic(folder, part):
    """Write a panoptic json with its PNGs, and return the class of each pixel."""
    segments = {7: 4, 1000: 9, 300_000: 4}  # ids over all three channels
    ids = np.zeros((HEIGHT, WIDTH), int)
    for number, box in zip(
        segments, ((4, 4, 30, 20), (20, 20, 60, 44), (40, 2, 50, 9)), strict=True
    ):
        ids[box[1] : box[3], box[0] : box[2]] = number
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    draw(folder / part / "1.jpg")
    (folder / f"{part}_masks").mkdir()
    Image.fromarray(colors).save(folder / f"{part}_masks" / "1.png")
    info = [{"id": n, "category_id": c, "iscrowd": 0, "area": 9} for n, c in segments.items()]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": info}],
        "categories": CATEGORIES,
    }
    (folder / f"{part}.json").write_text(json.dumps(content))
    table = {0: -1, 7: 0, 1000: 1, 300_000: 0}
    return np.vectorize(table.get)(ids)


@pytest.mark.parametrize("background", [None, True])
def test_panoptic_jsons(background, tmp_path):
    expected, _ = (write_panoptic(tmp_path, part) for part in ("train", "val"))
    masks = {f"{part}_masks": f"{part}_masks" for part in ("train", "val")}
    data = data_of(tmp_path, background=background, **masks)
    data.setup()
    found = data.val_set.pairs.masks[0].values()
    if background:
        assert data.class_names == ("background", "nucleus", "cell")
        np.testing.assert_array_equal(found, expected + 1)
    else:
        assert data.class_names == ("nucleus", "cell")
        np.testing.assert_array_equal(found, np.where(expected < 0, IGNORE, expected))
    with pytest.raises(UserError, match="train_masks"):
        data_of(tmp_path).setup()


def test_segments_that_a_panoptic_json_does_not_list_are_errors(tmp_path):
    for part in ("train", "val"):
        write_panoptic(tmp_path, part)
    content = json.loads((tmp_path / "train.json").read_text())
    content["annotations"][0]["segments_info"].pop()
    (tmp_path / "train.json").write_text(json.dumps(content))
    masks = {f"{part}_masks": f"{part}_masks" for part in ("train", "val")}
    with pytest.raises(UserError, match=r"1.png.*300000"):
        data_of(tmp_path, **masks).setup()


WHOLE = rle_of(blob(4, 4, 30, 30), compressed=False)


@pytest.mark.parametrize(
    ("segmentation", "match"),
    [
        ([], "no segmentation"),
        (None, "no segmentation"),
        ([[1, 2, 3, 4]], "3 or more points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "3 or more points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "finite"),
        ([[1, 2, 3, 4, 5, "6"]], "finite"),
        *(([[1, 2, 3, 4, 5, far]], "outside") for far in (1e9, 10**400)),
        ({"counts": WHOLE["counts"]}, "RLE must have"),
        ({**WHOLE, "size": [3, 4]}, r"got .*'size': \[3, 4\]"),
        ({**WHOLE, "counts": [1, 2]}, r"got .*'counts': \[1, 2\]"),
        ({**WHOLE, "counts": "04"}, "got .*'counts': '04'"),
    ],
)
def test_a_bad_segmentation_is_named(segmentation, match, tmp_path):
    for part in ("train", "val"):
        write_json(tmp_path, part)
    write_json(tmp_path, "train", [*SEGMENTATIONS[:1], (4, segmentation)])
    with pytest.raises(UserError, match=rf"annotation 2 of image 1 .*train.json.*{match}"):
        data_of(tmp_path).setup()


def test_jsons_that_do_not_fit_are_errors(tmp_path):
    for part in ("train", "val"):
        write_json(tmp_path, part)
    write_json(tmp_path, "train", [(5, SEGMENTATIONS[0][1])])
    with pytest.raises(UserError, match="category_id 5"):
        data_of(tmp_path).setup()
    write_json(tmp_path, "train", categories=CATEGORIES[::-1][:1])
    with pytest.raises(UserError, match=r"train.json.*categories"):
        data_of(tmp_path).setup()
    write_json(tmp_path, "train")
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(tmp_path / "train/1.png")
    with pytest.raises(UserError, match="image 1 of"):
        data_of(tmp_path).setup()
    (tmp_path / "train/1.png").unlink()
    with pytest.raises(UserError, match=r"1.png"):
        data_of(tmp_path).setup()


@pytest.mark.parametrize(
    ("place", "values", "match"),
    [
        ("images", {"width": 10**30}, "image 1 of .*width and height"),
        ("images", {"file_name": None}, r"images\[0\] .*file_name"),
        ("annotations", {"image_id": 9}, "does not list: 9"),
        ("annotations", {"segments_info": None}, "segments_info .*None for image 1"),
        ("annotations", {"segments_info": [5]}, "segments_info"),
        ("categories", {"name": None}, r"categories\[0\] .*name"),
        ("categories", {"id": "a"}, "ids of categories"),
        ("categories", {"id": float("inf")}, "ids of categories"),
    ],
)
def test_a_bad_value_is_named(place, values, match, tmp_path):
    for part in ("train", "val"):
        content = write_json(tmp_path, part)
    first, *others = content[place]
    content[place] = [first | values, *others]
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=match) as error:
        data_of(tmp_path).setup()
    assert "train.json" in str(error.value)


def test_bad_pairs_can_be_left_out(tmp_path):
    for part in ("train", "val"):
        write_json(tmp_path, part)
    data = data_of(tmp_path)
    data.setup()
    pairs = data.train_set.pairs
    (tmp_path / "train/2.png").unlink()
    kept, _ = check_pairs(pairs, skip_bad=True)
    assert [path.name for path in kept.images] == ["1.png", "3.png"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layout": "coco", "train_json": "a"}, "train_images, val_json, val_images"),
        ({"layout": "folder", "train_json": "a", **dict.fromkeys(
            ("train_images", "train_masks", "val_images", "val_masks"), "a")}, "train_json"),
        ({"layout": "cityscapes", "root": ".", "background": False}, "background"),
        ({"layout": "coco", "label_map": "a", **dict.fromkeys(
            ("train_json", "train_images", "val_json", "val_images"), "a")}, "label_map"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_errors(options, match):
    with pytest.raises(UserError, match=match):
        SegmentationData(**options)
