"""Bad data is found before a training: each kind of defect, and what detectron2 does with it."""

import contextlib
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.build import get_detection_dataset_dicts
from detectron2.data.datasets import load_sem_seg
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from load_tool import load_tool
from PIL import Image
from pycocotools import mask as coco_mask

from regnet_backbones import config_path
from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.data import register_split
from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.annotations import check_coco
from regnet_backbones.detection.data_checks.datasets import check_datasets
from regnet_backbones.detection.data_checks.kinds import Defect, Kind, Report, Use

QUICK = str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))

NAME = "checked"
SIZE = 64
NAN = float("nan")
SQUARE = [[10.0, 10.0, 40.0, 10.0, 40.0, 40.0, 10.0, 40.0]]
# The same square in runs down the columns: 10 columns and 10 pixels lie before it.
SQUARE_RUNS = [10 * SIZE + 10, 30, *[SIZE - 30, 30] * 29]
RLE = {"size": [SIZE, SIZE], "counts": [*SQUARE_RUNS, SIZE * SIZE - sum(SQUARE_RUNS)]}


def annotation(number, image, category=1):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [10.0, 10.0, 30.0, 30.0],
        "area": 900.0,
        "iscrowd": 0,
        "segmentation": [list(SQUARE[0])],
    }


@pytest.fixture
def data(tmp_path):
    """Two images with an object of each class; the first annotation is that which tests change."""
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    images = [{"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE} for i in (1, 2)]
    return {
        "images": images,
        "annotations": [annotation(i + 1, 1 + i // 2, 1 + i % 2) for i in range(4)],
        "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "circle"}],
    }


@pytest.fixture
def save(data, tmp_path):
    """Return what writes and registers `data`, and returns a config that uses it."""

    def register(*, train=True, test=False, **overrides):
        (tmp_path / "data.json").write_text(json.dumps(data))
        register_split(NAME, tmp_path / "data.json", tmp_path)
        cfg = default_config()
        cfg.merge_from_file(QUICK)
        cfg.DATASETS.TRAIN = (NAME,) if train else ()
        cfg.DATASETS.TEST = (NAME,) if test else ()
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (SIZE,), "none"
        cfg.MODEL.DEVICE = "cpu"
        cfg.merge_from_list([part for pair in overrides.items() for part in dotted(*pair)])
        return cfg

    return register


def dotted(key, value):
    return key.replace("__", "."), value


def map_all(cfg):
    """Load the registered dataset and map each record, as a training does."""
    records = get_detection_dataset_dicts([NAME], filter_empty=True)
    mapper = DatasetMapper(cfg, is_train=True)
    return [mapper(record) for record in records]


def evaluate(data, tasks=("bbox",)):
    """Evaluate predictions that find one square in each image."""
    DatasetCatalog.get(NAME)  # detectron2 knows the ids of classes from then on
    evaluator = COCOEvaluator(NAME, tasks, distributed=False)
    evaluator.reset()
    for image in data["images"]:
        instances = Instances((SIZE, SIZE))
        instances.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 40.0, 40.0]]))
        instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        instances.pred_masks = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
        instances.pred_masks[:, 10:40, 10:40] = True
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def kinds_of(cfg, images=None, severity=None):
    """Return what is found, but for what is noted of almost every change here."""
    found = check_datasets(cfg, images=images).defects
    found = {d.kind for d in found if severity in (None, d.kind.severity)}
    return found - {kinds.UNUSED_CLASS, kinds.UNLIKE_MASK}


def errors_of(cfg):
    return check_datasets(cfg, images=None).errors.summary()


def change(data, **values):
    data["annotations"][0].update(values)


def test_good_data_has_no_defects_and_detectron2_uses_it_all(data, save):
    cfg = save(test=True)
    assert check_datasets(cfg, images=None).defects == ()
    assert [len(sample["instances"]) for sample in map_all(cfg)] == [2, 2]


# Errors: detectron2 stops in loading or mapping


@pytest.mark.parametrize(
    ("values", "said", "raised"),
    [
        ({"bbox": [1, 2, 3]}, "'bbox' in 'annotations' must be", AssertionError),
        ({"bbox": []}, "'bbox' in 'annotations' must be", ValueError),
        ({"bbox": None}, kinds.BOX_OF_POLYGONS.text, TypeError),
        ({"bbox": ["1", "2", "3", "4"]}, "'bbox' in 'annotations' must be", ValueError),
        ({"category_id": 9}, kinds.UNDEFINED_ID.text, KeyError),
        ({"category_id": "1"}, kinds.NUMBER_AS_TEXT.text, KeyError),
        ({"ignore": 1}, kinds.IGNORED.text, AssertionError),
        ({"id": 2}, kinds.ID_TWICE.text, AssertionError),
        ({"segmentation": SQUARE[0]}, "'segmentation' in 'annotations' should be", TypeError),
        ({"segmentation": {"size": [64, 64]}}, "'segmentation' in 'annotations' must", KeyError),
        ({"segmentation": RLE}, kinds.RLE_FOR_POLYGON.text, ValueError),
        (
            {"segmentation": {"size": [64, 64], "counts": "@@@zz"}},
            kinds.BROKEN_RLE.text,
            ValueError,
        ),
        (
            {"segmentation": {"size": [32, 32], "counts": [500, 24, 500]}},
            kinds.RLE_SIZE.text,
            AssertionError,
        ),
    ],
)
def test_what_stops_detectron2_is_an_error(data, save, values, said, raised):
    change(data, **values)
    cfg = save()
    assert said in errors_of(cfg)
    with pytest.raises(raised):
        map_all(cfg)


@pytest.mark.parametrize(
    ("key", "said"), [("id", kinds.NO_ID.text), ("category_id", "category_id missing")]
)
def test_a_key_that_is_not_there_stops_it(data, save, key, said):
    del data["annotations"][0][key]
    cfg = save()
    assert said in errors_of(cfg)
    with pytest.raises(KeyError):
        map_all(cfg)


def test_an_image_or_category_without_a_key_stops_it(data, save):
    del data["images"][0]["width"], data["categories"][1]["name"]
    cfg = save()
    for said in ("width missing", "category 2: name missing"):
        assert said in errors_of(cfg)
    with pytest.raises(KeyError):
        map_all(cfg)


@pytest.mark.parametrize("empty", [[], None])
def test_masks_need_segmentations(data, save, empty):
    data["annotations"][1]["segmentation"] = empty
    assert kinds_of(save(), severity="error") == {kinds.NO_MASK}
    with pytest.raises(KeyError, match="segmentation"):
        map_all(save())
    assert kinds_of(save(MODEL__MASK_ON=False)) == set()
    assert len(map_all(save(MODEL__MASK_ON=False))[0]["instances"]) == 2


def test_a_byte_order_mark_stops_it(data, save, tmp_path):
    cfg, file = save(), tmp_path / "data.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    (defect,) = check_datasets(cfg, images=None).defects
    assert (defect.kind.severity, defect.kind.text) == ("error", kinds.BOM.text)
    with pytest.raises(ValueError, match="BOM"):
        map_all(cfg)


def test_a_missing_image_stops_it(data, save, tmp_path):
    (tmp_path / "2.png").unlink()
    cfg = save()
    assert kinds_of(cfg, images=0) == kinds_of(cfg) == {kinds.IMAGE_MISSING}
    with pytest.raises(FileNotFoundError):
        map_all(cfg)


def test_keypoints_of_the_wrong_number_stop_it(data, save):
    for entry in data["annotations"]:
        entry.update(keypoints=[20, 20, 2] * 3, num_keypoints=3)
    change(data, keypoints=[20, 20, 2] * 2)
    options = {"MODEL__KEYPOINT_ON": True, "MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 3}
    cfg = save(**options)
    MetadataCatalog.get(NAME).set(keypoint_names=["a", "b", "c"], keypoint_flip_map=[])
    assert kinds_of(cfg) == {kinds.KEYPOINTS}
    with pytest.raises(ValueError, match="expected sequence of length"):
        map_all(cfg)


# Errors: detectron2 continues with something else


def test_ids_given_twice_lose_an_image_and_a_category(data, save):
    data["images"].append({**data["images"][0], "file_name": "2.png"})
    data["categories"].append({"id": 1, "name": "triangle"})
    cfg = save()
    assert kinds_of(cfg) == {kinds.DOUBLE_ID}
    assert len(map_all(cfg)) == 2
    assert "square" not in MetadataCatalog.get(NAME).thing_classes


def test_an_annotation_of_no_image_is_lost(data, save):
    change(data, image_id=9)
    cfg = save()
    assert kinds_of(cfg) == {kinds.UNDEFINED_ID}
    assert [len(sample["instances"]) for sample in map_all(cfg)] == [1, 2]


@pytest.mark.parametrize(
    ("box", "trained"),
    [
        ([NAN, 10, 30, 30], None),
        ([10, 10, float("inf"), 30], [10, 10, 64, 40]),
        ([60, 60, -30, -30], [30, 30, 60, 60]),
    ],
)
def test_wrong_boxes_are_lost_or_distorted(data, save, box, trained):
    change(data, bbox=box)
    cfg = save()
    assert f"bbox {box}" in errors_of(cfg)
    boxes = map_all(cfg)[0]["instances"].gt_boxes.tensor.tolist()
    assert boxes == [*([trained] if trained else []), [10, 10, 40, 40]]


def test_a_box_of_nan_is_found_where_it_is_not(data, save):
    data["annotations"] = [annotation(1, 1), annotation(2, 2)]
    change(data, bbox=[300, 10, 30, 30])
    save(test=True)
    assert evaluate(data)["bbox"]["AP"] < 50
    change(data, bbox=[NAN, 10, 30, 30])
    assert "bbox [nan, 10, 30, 30]" in errors_of(save(test=True))
    assert evaluate(data)["bbox"]["AP"] == pytest.approx(100)


def test_more_classes_than_the_model_has(data, save):
    cfg = save(MODEL__ROI_HEADS__NUM_CLASSES=1)
    assert kinds_of(cfg) == {kinds.TOO_MANY_CLASSES}
    head = FastRCNNOutputLayers(
        ShapeSpec(channels=4),
        box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
        num_classes=1,
    )
    # A circle, class 1, is well predicted when the background is: the second score of two.
    proposals = Instances((SIZE, SIZE))
    proposals.proposal_boxes = proposals.gt_boxes = Boxes(torch.tensor([[1.0, 1, 9, 9]]))
    proposals.gt_classes = torch.tensor([1])
    scores = torch.tensor([[-20.0, 20.0]])
    with EventStorage():
        losses = head.losses((scores, torch.zeros(1, 4)), [proposals])
    assert losses["loss_cls"] < 1e-6


def test_deep_images_become_white(data, save, tmp_path):
    Image.fromarray(np.full((SIZE, SIZE), 4096, np.uint16)).save(tmp_path / "1.png")
    cfg = save()
    assert kinds_of(cfg, severity="error") == {kinds.DEEP_IMAGE}
    assert (map_all(cfg)[0]["image"] == 255).all()


# Errors of evaluation


def test_an_id_of_zero_is_not_found_in_evaluation(data, save):
    data["annotations"] = [annotation(1, 1), annotation(2, 2)]
    save(test=True)
    assert evaluate(data)["bbox"]["AP"] == pytest.approx(100)
    change(data, id=0)
    assert kinds.ZERO_ID.text not in errors_of(save())
    assert kinds.ZERO_ID.text in errors_of(save(train=False, test=True))
    # Found at half the precision and up to half the recall, 51 of COCO's 101 points.
    assert evaluate(data)["bbox"]["AP"] == pytest.approx(100 * 51 / 101 / 2, abs=0.01)


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_evaluation_needs_keys_that_training_does_not(data, save, key):
    del data["annotations"][0][key]
    assert errors_of(save()) == ""
    assert f"an annotation has no {key}" in errors_of(save(train=False, test=True))
    with pytest.raises(KeyError, match=key):
        evaluate(data)


@pytest.mark.parametrize("box", [[10, 10, 0, 30], [10, 10, 30, 0], [100, 100, 30, 30]])
def test_boxes_without_area_are_dropped_in_training_and_missed_in_evaluation(data, save, box):
    change(data, bbox=box)
    cfg = save()
    assert kinds_of(cfg) == {kinds.DROPPED_BOX}
    assert kinds.DROPPED_BOX.severity == "note"
    assert [len(sample["instances"]) for sample in map_all(cfg)] == [1, 2]
    # Alone in its image, it is an object that nothing finds.
    data["annotations"] = [annotation(1, 1)]
    save(train=False, test=True)
    assert evaluate(data)["bbox"]["AP"] == pytest.approx(100)
    change(data, bbox=box)
    assert kinds_of(save(train=False, test=True)) == {kinds.UNREACHABLE_BOX}
    assert kinds.UNREACHABLE_BOX.severity == "note"  # benchmarks have such objects
    assert evaluate(data)["bbox"]["AP"] == 0


def test_polygons_that_cannot_be_drawn(data, save):
    change(data, segmentation=[[1.0, 2.0, 3.0, 4.0]])
    cfg = save()
    assert kinds_of(cfg) == {kinds.DROPPED_ANNOTATION}
    assert [len(sample["instances"]) for sample in map_all(cfg)] == [1, 2]
    assert kinds_of(save(train=False, test=True)) == {kinds.NO_POLYGON}
    with pytest.raises(TypeError):
        evaluate(data, ("segm",))
    # Next to one that can be drawn, a polygon of two points is taken for a box if it is the first.
    change(data, segmentation=[[1.0, 2.0, 3.0, 4.0], *SQUARE])
    found = kinds_of(save(train=False, test=True))
    assert found == {kinds.DROPPED_POLYGON, kinds.NO_POLYGON}
    with pytest.raises(TypeError):
        evaluate(data, ("segm",))


# Notes: what detectron2 copes with


def test_crowd_regions_and_empty_images_are_not_trained_on(data, save):
    change(data, iscrowd=1, segmentation=RLE)
    data["annotations"] = data["annotations"][:1] + data["annotations"][2:]
    cfg = save()
    assert kinds_of(cfg) == {kinds.CROWD, kinds.EMPTY_IMAGE}
    assert kinds_of(cfg, severity="error") == set()
    assert [len(sample["instances"]) for sample in map_all(cfg)] == [2]


def test_boxes_beyond_the_border_are_clipped(data, save):
    change(data, bbox=[50, 50, 30, 30], segmentation=[[50, 50, 80, 50, 80, 80, 50, 80]])
    cfg = save()
    assert kinds_of(cfg, severity="note") == kinds_of(cfg) == {kinds.CLIPPED_BOX}
    boxes = map_all(cfg)[0]["instances"].gt_boxes.tensor
    assert boxes[0].tolist() == [50, 50, 64, 64]
    change(data, bbox=[50, 50, 15, 14], segmentation=[[50, 50, 64, 50, 64, 64]])  # a rounded one
    assert kinds_of(save()) == set()


def test_some_polygons_are_dropped(data, save):
    change(data, segmentation=[*SQUARE, [1.0, 2.0, 3.0, 4.0, 5.0]])
    cfg = save()
    assert kinds_of(cfg) == {kinds.DROPPED_POLYGON}
    assert len(map_all(cfg)[0]["instances"].gt_masks.polygons[0]) == 1


def test_bitmasks_are_made_of_rle_and_polygons(data, save):
    change(data, segmentation=RLE)
    cfg = save(INPUT__MASK_FORMAT="bitmask")
    assert kinds_of(cfg) == set()
    masks = map_all(cfg)[0]["instances"].gt_masks.tensor
    assert torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_images_of_other_modes_are_converted(data, save, tmp_path, mode):
    plain = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    image = plain.convert(mode)
    file = "1.tif" if mode == "CMYK" else "1.png"
    image.save(tmp_path / file)
    data["images"][0]["file_name"] = file
    cfg = save()
    assert kinds_of(cfg) == kinds_of(cfg, severity="note") == {kinds.CONVERTED}
    assert (map_all(cfg)[0]["image"] == 255).all()


def test_16_bits_of_colour_are_no_defect(data, save, tmp_path):
    """Pillow reads the upper 8 of them."""
    rows = b"".join(b"\0" + struct.pack(">3H", 4096, 8192, 65535) * SIZE for _ in range(SIZE))

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    assert kinds_of(save()) == set()
    assert read_image(tmp_path / "1.png", "RGB")[0, 0].tolist() == [16, 32, 255]


# Image files


def test_a_truncated_jpeg_stops_it(data, save, tmp_path):
    file = tmp_path / "1.jpg"
    Image.open(tmp_path / "1.png").save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    data["images"][0]["file_name"] = file.name
    cfg = save()
    assert kinds_of(cfg) == {kinds.UNREADABLE_FILE}
    assert kinds_of(cfg, images=0) == set()
    with pytest.raises(OSError, match="truncated"):
        map_all(cfg)


def test_an_image_of_another_size_stops_it(data, save):
    data["images"][1]["width"] = SIZE + 1
    cfg = save()
    (defect,) = check_datasets(cfg, images=None).defects
    assert (defect.kind, Path(defect.image).name) == (kinds.WRONG_SIZE, "2.png")
    assert defect.detail == "64x64, the annotations say 65x64"
    assert kinds_of(cfg, images=1) == set()
    with pytest.raises(ValueError, match="Mismatched image shape"):
        map_all(cfg)


def test_sizes_are_those_of_the_turned_image(data, save, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, SIZE)).save(tmp_path / "1.jpg", exif=exif)
    data["images"][0].update(file_name="1.jpg", width=SIZE, height=40)
    for entry in data["annotations"][:2]:
        entry.update(bbox=[10, 10, 30, 20])
    cfg = save()
    assert kinds_of(cfg) == {kinds.TURNED}
    assert kinds.TURNED.severity == "note"
    assert map_all(cfg)[0]["image"].shape == (3, SIZE, 102)  # 64 * 64 / 40


# Semantic masks

LABELS = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % 3
PALETTE = [200, 0, 0, 0, 200, 0, 0, 0, 200]


def palette_mask():
    image = Image.fromarray(LABELS, mode="P")
    image.putpalette(PALETTE)
    return image


@pytest.fixture
def masks(tmp_path):
    """Return what registers a semantic dataset of one image, and returns a config that uses it."""

    def register(mask, *, train=True):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "images" / "1.png")
        mask.save(tmp_path / "masks" / "1.png")
        roots = str(tmp_path / "masks"), str(tmp_path / "images")
        for catalog in (DatasetCatalog, MetadataCatalog):
            if NAME in catalog.list():
                catalog.remove(NAME)
        DatasetCatalog.register(NAME, lambda: load_sem_seg(*roots, image_ext="png"))
        MetadataCatalog.get(NAME).set(
            evaluator_type="sem_seg", stuff_classes=["a", "b", "c"], ignore_label=255
        )
        cfg = default_config()
        cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
        cfg.DATASETS.TRAIN = (NAME,) if train else ()
        cfg.DATASETS.TEST = () if train else (NAME,)
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (SIZE,), "none"
        return cfg

    return register


@pytest.mark.parametrize("mask", [LABELS, np.where(LABELS, LABELS, 255)])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_masks_are_read_as_they_are(masks, mask, channels):
    image = Image.fromarray(mask.astype(np.uint8))
    cfg = masks(image if channels == 1 else image.convert("RGB"))
    assert kinds_of(cfg) == set()
    assert (map_all(cfg)[0]["sem_seg"].numpy() == mask).all()


@pytest.mark.parametrize(
    "mask", [palette_mask(), Image.fromarray(LABELS > 0)], ids=["palette", "one bit"]
)
def test_training_takes_colours_for_labels_and_evaluation_does_not(masks, mask):
    cfg = masks(mask)
    assert kinds_of(cfg) == {kinds.MASK_COLOURS}
    assert map_all(cfg)[0]["sem_seg"].max() > 2
    assert kinds_of(masks(mask, train=False)) == set()


def test_labels_beyond_the_classes_spoil_the_evaluation(masks):
    mask = np.full((SIZE, SIZE), 5, np.uint8)
    for train in (True, False):
        assert kinds_of(masks(Image.fromarray(mask), train=train)) == {kinds.MASK_LABELS}
    evaluator = SemSegEvaluator(NAME, distributed=False)
    evaluator.reset()
    record = DatasetCatalog.get(NAME)[0]
    prediction = torch.zeros(3, SIZE, SIZE)
    prediction[0] = 1
    evaluator.process([record], [{"sem_seg": prediction}])
    # Neither predicted nor true, and counted as found.
    assert evaluator.evaluate()["sem_seg"]["IoU-b"] == 100
    # As the loss of training sees them.
    target = torch.from_numpy(mask).long()[None]
    with pytest.raises(IndexError, match="out of bounds"):
        torch.nn.functional.cross_entropy(torch.zeros(1, 3, SIZE, SIZE), target)


def test_masks_of_another_size_or_that_are_not_there(masks, tmp_path):
    cfg = masks(Image.fromarray(LABELS[:32]))
    assert kinds_of(cfg) == {kinds.MASK_SIZE}
    with pytest.raises(AssertionError):
        map_all(cfg)
    record = {"file_name": str(tmp_path / "images" / "1.png"), "sem_seg_file_name": "gone.png"}
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: [record])
    assert kinds_of(cfg) == {kinds.UNREADABLE_FILE}
    with pytest.raises(FileNotFoundError):
        map_all(cfg)


# RLE


def one_rle(rle):
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": SIZE, "height": SIZE}],
        "annotations": [annotation(1, 1) | {"segmentation": rle}],
        "categories": [{"id": 1, "name": "a"}],
    }
    use = Use(train=True, masks=True, polygons=False)
    return [defect.kind for defect in check_coco(content, source=NAME, use=use)]


def test_compressed_rle_is_read_as_pycocotools_does():
    random = np.random.default_rng(0)
    for density in (0, 0.001, 0.1, 0.5, 1):
        mask = np.asfortranarray(random.random((SIZE, SIZE)) < density).astype(np.uint8, order="F")
        rle = coco_mask.encode(mask)
        text = rle["counts"].decode()
        assert one_rle({"size": [SIZE, SIZE], "counts": text}) == []
        for broken in (text[:-1], text + "1", ""):
            assert one_rle({"size": [SIZE, SIZE], "counts": broken}) == [kinds.BROKEN_RLE]


@pytest.mark.parametrize("counts", [[650, 30], [5000], [-1, 4097]])
def test_runs_that_do_not_add_up(counts):
    assert one_rle({"size": [SIZE, SIZE], "counts": counts}) == [kinds.BROKEN_RLE]


# The report


def test_a_report_of_many_defects_is_short_and_its_file_names_all(tmp_path):
    kind, other = Kind("error", "it is bad; correct it"), Kind("note", "it is odd; let it be")
    many = [Defect(kind, "mine", "a.png", number, "found") for number in range(30_000)]
    report = Report((Defect(other, "mine", "b.png"), *many))
    assert report.summary().splitlines() == [
        "error: 'mine', 30,000 times: it is bad; correct it",
        "    annotation 0 of a.png (found)",
        "    annotation 1 of a.png (found)",
        "    annotation 2 of a.png (found)",
        "    ... and 29,997 more",
        "note: 'mine', 1 time: it is odd; let it be",
        "    b.png",
    ]
    report.write(tmp_path / "new" / "report.txt")
    written = (tmp_path / "new" / "report.txt").read_text()
    assert written.startswith(report.summary())
    assert "annotation 29999 of a.png (found)" in written


# The tool


@pytest.fixture(scope="module")
def main():
    return load_tool("train_net").main


def own_data(tmp_path):
    return [
        *("--train-json", str(tmp_path / "data.json"), "--train-images", str(tmp_path)),
        *("--val-json", str(tmp_path / "data.json"), "--val-images", str(tmp_path)),
    ]


def test_check_data_reports_and_does_not_train(main, data, save, tmp_path, capsys, monkeypatch):
    from regnet_backbones.detection import run

    monkeypatch.setattr(run, "run_in_processes", None)  # to call it would be a TypeError
    command = ["--config-file", QUICK, "--check-data", *own_data(tmp_path)]
    output = ["OUTPUT_DIR", str(tmp_path / "out")]
    save()
    assert main([*command, *output]) == 0
    printed = capsys.readouterr()
    assert "2 errors and notes" in printed.out
    assert kinds.IN_BOTH.text in printed.err
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:500])
    assert main([*command, *output]) == 2
    assert "a file cannot be read to its end" in capsys.readouterr().err
    assert "2.png" in (tmp_path / "out" / "data_report.txt").read_text()


def test_a_training_checks_the_first_images(main, data, save, tmp_path, capsys, monkeypatch):
    from regnet_backbones.detection import run

    started = []
    monkeypatch.setattr(run, "run_in_processes", lambda *_, **__: started.append(True))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:500])
    save()
    command = ["--config-file", QUICK, *own_data(tmp_path), "OUTPUT_DIR", str(tmp_path / "out")]
    assert main([*command, "DATALOADER.CHECK_IMAGES", "1"]) == 0
    assert started == [True]
    assert main(command) == 2
    assert started == [True]
    error = capsys.readouterr().err
    assert "--check-data" in error
    assert not (tmp_path / "out").exists()
    assert main(["--skip-data-check", *command]) == 0
    assert started == [True, True]
    assert main([*command, "DATALOADER.CHECK_IMAGES", "-1"]) == 2
    assert "DATALOADER.CHECK_IMAGES must be" in capsys.readouterr().err


def test_a_dataset_that_cannot_be_loaded_is_an_error(save):
    cfg = save()
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    MetadataCatalog.get("coco_2017_train")
    (defect,) = check_datasets(cfg, images=0).defects
    assert defect.kind == kinds.UNLOADABLE
    assert "instances_train2017.json" in defect.detail


def test_lvis_finds_its_images_by_url_and_needs_no_iscrowd(data, save, tmp_path):
    (tmp_path / "val2017").mkdir()
    for number, image in enumerate(data["images"], 1):
        (tmp_path / f"{number}.png").rename(tmp_path / "val2017" / f"{number}.png")
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{number}.png"
    for entry in data["annotations"]:
        del entry["iscrowd"]
    cfg = save(train=False, test=True)
    MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).set(
        evaluator_type="lvis", image_root=f"{tmp_path}/", json_file=str(tmp_path / "data.json")
    )
    assert check_datasets(cfg, images=None).defects == ()
    (tmp_path / "val2017" / "1.png").unlink()
    assert kinds_of(cfg) == {kinds.IMAGE_MISSING}


def test_datasets_that_have_a_mapper_of_their_own_are_left_to_it(save):
    cfg = save()
    for records in ([{"pixels": 1}], torch.utils.data.TensorDataset(torch.zeros(1))):
        DatasetCatalog.remove(NAME)
        DatasetCatalog.register(NAME, lambda records=records: records)
        MetadataCatalog.remove(NAME)
        assert check_datasets(cfg, images=None).defects == ()
