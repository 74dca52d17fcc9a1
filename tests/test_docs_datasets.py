"""The layouts of docs/datasets.md: what is laid out so is found, and read."""

import json
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
from documents import ROOT, blocks, codes, rows
from PIL import Image

from regnet_backbones import shapes
from regnet_backbones.detection.ade20k import convert_masks
from regnet_backbones.detection.data import read_coco_split
from regnet_backbones.semseg.datamodule import SegmentationData

PAGE = (ROOT / "docs" / "datasets.md").read_text()
TREES = [block.splitlines() for block in blocks(PAGE, "text")]
SIDES = (48, 64)  # height and width of an image
MASKS = ("masks/", "annotations/", "labelIds", "instanceIds")


def tree(*needed):
    """Return the one tree of the page that has such a file."""
    (found,) = [tree for tree in TREES if any(line.startswith(needed) for line in tree)]
    return found


def lay_out(root, paths, divisor=1):
    """Write files of their kinds: noise as images, masks of labels 1, 7 and 8."""
    noise = np.random.default_rng(0)
    mask = np.ones(SIDES, np.uint8)
    mask[:16], mask[16:32] = 7, 8
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".json":
            file.write_text(json.dumps({"imgWidth": 64, "imgHeight": 48, "objects": []}))
        elif file.suffix == ".txt":
            file.write_text("background\nscrew\n")
        elif any(word in path for word in MASKS):
            Image.fromarray(mask // divisor).save(file)
        else:
            Image.fromarray(noise.integers(0, 255, (*SIDES, 3), dtype=np.uint8)).save(file)


def registered(name):
    """Return the paths that detectron2 has for a dataset, below its folder of datasets."""
    keys = (
        *("image_root", "image_dir", "gt_dir", "json_file"),
        *("panoptic_root", "panoptic_json", "sem_seg_root"),
    )
    metadata = MetadataCatalog.get(name).as_dict()
    paths = (PurePosixPath(metadata[key]) for key in keys if key in metadata)
    return [str(path.relative_to("datasets")) for path in paths]


NAMES = [name for row in rows(PAGE, "Where Detectron2 looks") for name in codes(row[0])]


@pytest.mark.parametrize("name", NAMES)
def test_detectron2_looks_where_the_page_says(name):
    listed = {line for lines in TREES for line in lines}
    listed |= {str(parent) for line in listed for parent in PurePosixPath(line).parents}
    made = "ADEChallengeData2016/annotations_detectron2"  # by the command on the page
    found = registered(name)
    assert found
    assert not [path for path in found if path not in listed and not path.startswith(made)]


def test_recipes_are_of_datasets_on_the_page():
    text = "".join(path.read_text() for path in (ROOT / "configs" / "detectron2").glob("*.yaml"))
    assert len(NAMES) == 14
    assert not [name for name in NAMES if f'"{name}"' not in text]


def test_cityscapes_for_detectors(tmp_path):
    lay_out(tmp_path, tree("cityscapes/"))
    for split in ("train", "val"):
        folders = (tmp_path / "cityscapes" / kind / split for kind in ("leftImg8bit", "gtFine"))
        images, masks = map(str, folders)
        assert len(load_cityscapes_instances(images, masks)) == 1


@pytest.mark.parametrize(
    ("layout", "folder", "classes"),
    [("cityscapes", "cityscapes", 19), ("ade20k", "ADEChallengeData2016", 150)],
)
def test_layouts_for_segmenters(layout, folder, classes, tmp_path):
    lay_out(tmp_path, [line for line in tree(f"{folder}/") if not line.endswith(".txt")])
    data = SegmentationData(layout, str(tmp_path / folder), num_workers=0, crop_size=32)
    data.setup()
    assert (len(data.train_set), len(data.val_set), data.num_classes) == (1, 1, classes)
    mask = data.val_set[0]["mask"]
    # Label 1 is class 0 of ADE20K, and none of Cityscapes', of whose classes 7 and 8 are the first.
    wanted = {0, 6, 7} if layout == "ade20k" else {0, 1, 255}
    assert set(torch.as_tensor(mask).unique().tolist()) == wanted


def test_ade20k_is_converted(tmp_path):
    lay_out(tmp_path, tree("ADEChallengeData2016/"))
    converted = convert_masks(tmp_path / "ADEChallengeData2016")
    assert [folder.parent.name for folder in converted] == ["annotations_detectron2"] * 2


def test_folders_of_images_and_masks(tmp_path):
    lay_out(tmp_path, tree("masks/"), divisor=7)  # labels 0 and 1
    data = SegmentationData(
        "folder",
        str(tmp_path),
        train_images="images/train",
        train_masks="masks/train",
        val_images="images/val",
        val_masks="masks/val",
        class_names_file="classes.txt",
        num_workers=0,
        crop_size=32,
    )
    data.setup()
    assert data.class_names == ("background", "screw")
    assert set(torch.as_tensor(data.val_set[0]["mask"]).unique().tolist()) == {0, 1}


def test_ones_own_json(tmp_path):
    lay_out(tmp_path, [line for line in tree("train.json") if line.endswith(".jpg")])
    (content,) = blocks(PAGE, "json")
    (tmp_path / "train.json").write_text(content)
    (tmp_path / "val.json").write_text(content.replace("0001.jpg", "0101.jpg"))
    for split in ("train", "val"):
        read = read_coco_split(tmp_path / f"{split}.json", tmp_path / "images" / split)
        assert [len(entries) for entries in read.content.values()] == [1, 1, 1]
        assert (read.categories, read.defects) == ({1: "screw"}, ())


def test_the_shapes(tmp_path):
    shapes.write(tmp_path / "shapes", shapes.ShapesSpec(num_train=1, num_val=1, image_size=64))
    for path in tree("shapes/"):
        assert (tmp_path / path).is_file()
        assert (tmp_path / path.replace("training", "validation").replace("train", "val")).is_file()
