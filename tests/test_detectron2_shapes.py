"""The demo dataset in detectron2's catalog: what is registered, and what evaluators make of it."""

import json

import numpy as np
import pytest
import torch
from demo_datasets import looked_for_in, names_of_all_classes_are_thing_classes
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.evaluation import COCOEvaluator
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from regnet_backbones import shapes
from regnet_backbones.adapters.detectron2 import rgb2id
from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.evaluation import build_evaluators

KINDS = ("", "_keypoints", "_sem_seg", "_panoptic", "_panoptic_separated")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Draw it where detectron2 looks for it."""
    root = tmp_path_factory.mktemp("datasets")
    with looked_for_in(root):
        spec = shapes.ShapesSpec(num_train=2, num_val=6, image_size=96)
        yield shapes.write(root / "shapes", spec)


def config(architecture, output, **keys):
    cfg = default_config()
    cfg.MODEL.META_ARCHITECTURE, cfg.OUTPUT_DIR = architecture, str(output)
    cfg.TEST.PICTURES = 0
    cfg.merge_from_list([each for pair in keys.items() for each in pair])
    return cfg


def evaluate(cfg, name, predict):
    """Return the results of predictions made of a dataset's records."""
    evaluators = build_evaluators(cfg, name)
    evaluators.reset()
    for record in DatasetCatalog.get(name):
        evaluators.process([record], [predict(record)])
    return evaluators.evaluate()


def instances_of(record, annotations):
    """Return annotations as a detector that is always right would predict them."""
    found = Instances((record["height"], record["width"]))
    corners = np.array([a["bbox"] for a in annotations])
    corners[:, 2:] += corners[:, :2]
    found.pred_boxes = Boxes(torch.from_numpy(corners))
    found.pred_classes = torch.tensor([a["category_id"] for a in annotations])
    found.scores = torch.ones(len(annotations))
    if "keypoints" in annotations[0]:
        points = [a["keypoints"] for a in annotations]
        found.pred_keypoints = torch.tensor(points).float().view(len(points), 5, 3)
    return found


def one_hot(path, classes):
    labels = torch.from_numpy(np.asarray(Image.open(path)).astype(int))
    return torch.nn.functional.one_hot(labels, classes).permute(2, 0, 1)


# Registration


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_drawn_says_how_to_draw_it(kind, tmp_path):
    with looked_for_in(tmp_path):
        command = f"regnet-backbones shapes --output {tmp_path}/shapes"
        with pytest.raises(FileNotFoundError) as caught:
            DatasetCatalog.get(f"shapes{kind}_val")
        assert f"draw it with: {command} (or set DETECTRON2_DATASETS" in str(caught.value)

        spec = shapes.ShapesSpec(num_train=1, num_val=2, image_size=48)
        drawn = shapes.write(tmp_path / "shapes", spec)
        assert len(DatasetCatalog.get(f"shapes{kind}_val")) == 2
        record = json.loads((drawn.root / "spec.json").read_text())
        (drawn.root / "spec.json").write_text(json.dumps({**record, "version": 1}))
        with pytest.raises(ValueError, match=f"draw it again with: {command} --overwrite"):
            DatasetCatalog.get(f"shapes{kind}_val")


def test_ids_are_known_before_the_files_are_read():
    for kind in ("", "_keypoints", "_panoptic", "_panoptic_separated"):
        metadata = MetadataCatalog.get(f"shapes{kind}_train")
        assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4}


def test_keypoints_are_those_of_the_drawing(dataset):
    record = DatasetCatalog.get("shapes_keypoints_val")[3]
    sample = shapes.draw(dataset.spec, "val", 3)
    assert len(record["annotations"]) == len(sample.keypoints)
    for annotation, points in zip(record["annotations"], sample.keypoints, strict=True):
        found = np.array(annotation["keypoints"]).reshape(5, 3)
        labelled = points[:, 2] > 0
        np.testing.assert_allclose(found[labelled], points[labelled], atol=0.006)
        assert (found[~labelled, 2] == 0).all()


def test_a_flip_exchanges_left_and_right(dataset):
    indices = create_keypoint_hflip_indices(["shapes_keypoints_train"])
    assert indices == [0, 3, 2, 1, 4]
    metadata = MetadataCatalog.get("shapes_keypoints_train")
    ends = {name for line in metadata.keypoint_connection_rules for name in line[:2]}
    assert ends == set(metadata.keypoint_names)


def test_panoptic_records_agree_with_their_masks(dataset):
    metadata = MetadataCatalog.get("shapes_panoptic_val")
    records = DatasetCatalog.get("shapes_panoptic_val")
    assert len(records) == 6
    for record in records:
        ids = rgb2id(np.asarray(Image.open(record["pan_seg_file_name"])))
        labels = np.asarray(Image.open(record["sem_seg_file_name"]))
        assert set(np.unique(ids)) == {segment["id"] for segment in record["segments_info"]}
        for segment in record["segments_info"]:
            (number,) = set(labels[ids == segment["id"]].tolist())
            assert segment["category_id"] == number
            assert segment["isthing"] == (metadata.stuff_classes[number] != "background")


# What detectron2 reads in training


def test_panoptic_classes_are_those_that_mask2former_reads(dataset, tmp_path):
    """Things alone are `thing_classes`, which stock evaluators of instances count and name."""
    metadata = MetadataCatalog.get("shapes_panoptic_val")
    assert metadata.thing_classes == list(shapes.CATEGORIES)
    assert metadata.stuff_classes == [*shapes.CATEGORIES, "background"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4}
    assert metadata.stuff_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5}
    annotations = {r["image_id"]: r["annotations"] for r in DatasetCatalog.get("shapes_val")}
    evaluator = COCOEvaluator("shapes_panoptic_val", output_dir=str(tmp_path))
    evaluator.reset()
    for record in DatasetCatalog.get("shapes_panoptic_val"):
        found = instances_of(record, annotations[record["image_id"]])
        evaluator.process([record], [{"instances": found}])
    results = evaluator.evaluate()["bbox"]
    assert {f"AP-{name}" for name in shapes.CATEGORIES} <= set(results)
    assert results["AP"] == pytest.approx(100)
    for record in DatasetCatalog.get("shapes_panoptic_val"):
        picture = Visualizer(np.asarray(Image.open(record["file_name"])), metadata)
        assert picture.draw_dataset_dict(record).get_image().any()


def test_panoptic_deeplab_learns_of_all_classes(dataset):
    cfg = config("PanopticDeepLab", "")
    cfg.DATASETS.TRAIN = ("shapes_panoptic_train",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.ENABLED = (96,), False
    record = DatasetCatalog.get("shapes_panoptic_train")[0]
    sample = PanopticDeeplabDatasetMapper(cfg)(record)
    labels = np.asarray(Image.open(record["sem_seg_file_name"]))
    found = sample["sem_seg"].numpy()
    assert (found == labels).all() or (found == labels[:, ::-1]).all()
    things = [segment for segment in record["segments_info"] if segment["isthing"]]
    assert len(sample["center_points"]) == len(things) > 1


def test_panoptic_fpn_learns_instances_and_stuff(dataset):
    record = DatasetCatalog.get("shapes_panoptic_separated_train")[0]
    plain = DatasetCatalog.get("shapes_train")[0]
    cfg = config("PanopticFPN", "", **{"INPUT.RANDOM_FLIP": "none"})
    cfg.MODEL.MASK_ON, cfg.INPUT.MIN_SIZE_TRAIN = True, (96,)
    sample = DatasetMapper(cfg, is_train=True)(record)
    assert len(sample["instances"]) == len(plain["annotations"]) > 1
    labels = shapes.draw(dataset.spec, "train", 0).instances
    np.testing.assert_array_equal(sample["sem_seg"], labels == 0)


# What evaluators make of the truth


def test_true_keypoints_have_an_ap_of_100(dataset, tmp_path):
    sigmas = {"TEST.KEYPOINT_OKS_SIGMAS": [0.05] * 5, "MODEL.KEYPOINT_ON": True}
    cfg = config(
        "GeneralizedRCNN", tmp_path, **sigmas, **{"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 5}
    )
    results = evaluate(
        cfg,
        "shapes_keypoints_val",
        lambda record: {"instances": instances_of(record, record["annotations"])},
    )
    assert set(results) == {"bbox", "keypoints"}
    assert results["keypoints"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("form", ["ours", "COCO's"])
def test_true_segments_have_a_quality_of_100_as_panoptic_deeplab_gives_them(
    form, dataset, tmp_path
):
    if form == "COCO's":
        names_of_all_classes_are_thing_classes("shapes_panoptic_val")

    def predict(record):
        ids = rgb2id(np.asarray(Image.open(record["pan_seg_file_name"])))
        labels = np.full(ids.shape, -1)
        for number, segment in enumerate(record["segments_info"], 1):
            within = number if segment["isthing"] else 0
            labels[ids == segment["id"]] = 1000 * segment["category_id"] + within
        things = [segment for segment in record["segments_info"] if segment["isthing"]]
        return {
            "panoptic_seg": (torch.from_numpy(labels), None),
            "sem_seg": one_hot(record["sem_seg_file_name"], 6),
            "instances": instances_of(record, things),
        }

    predicting = {"MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES": True}
    cfg = config("PanopticDeepLab", tmp_path, **predicting)
    results = evaluate(cfg, "shapes_panoptic_val", predict)
    assert set(results) == {"bbox", "sem_seg", "panoptic_seg"}
    quality = {results["panoptic_seg"][key] for key in ("PQ", "PQ_th", "PQ_st", "SQ", "RQ")}
    assert quality == {100}
    assert results["sem_seg"]["mIoU"] == results["sem_seg"]["IoU-background"] == 100
    # By category, in the names of things alone.
    assert results["bbox"]["AP-cross"] == pytest.approx(100)
    assert "AP-background" not in results["bbox"]


def test_true_segments_have_a_quality_of_100_as_panoptic_fpn_gives_them(dataset, tmp_path):
    combined = {r["image_id"]: r for r in DatasetCatalog.get("shapes_panoptic_val")}

    def predict(record):
        truth = combined[record["image_id"]]
        ids = rgb2id(np.asarray(Image.open(truth["pan_seg_file_name"])))
        # Things are numbered from 0, and of stuff the background is class 1.
        info = [
            {
                "id": segment["id"],
                "isthing": segment["isthing"],
                "category_id": segment["category_id"] if segment["isthing"] else 1,
            }
            for segment in truth["segments_info"]
        ]
        return {
            "panoptic_seg": (torch.from_numpy(ids), info),
            "sem_seg": one_hot(record["sem_seg_file_name"], 2),
            "instances": instances_of(record, record["annotations"]),
        }

    results = evaluate(config("PanopticFPN", tmp_path), "shapes_panoptic_separated_val", predict)
    assert set(results) == {"bbox", "sem_seg", "panoptic_seg"}
    assert {results["panoptic_seg"][key] for key in ("PQ", "PQ_th", "PQ_st")} == {100}
    assert results["sem_seg"]["mIoU"] == 100
    assert results["bbox"]["AP"] == pytest.approx(100)
