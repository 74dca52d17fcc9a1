"""Bad data is found before a training: each kind of defect, and what detectron2 does with it."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.build import get_detection_dataset_dicts
from detectron2.data.datasets import load_sem_seg, register_coco_instances
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from detectron2.structures import Boxes, Instances
from load_tool import load_tool
from PIL import Image
from pycocotools import mask as coco_mask

from regnet_backbones import config_path
from regnet_backbones.detection import run
from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.annotations import check_coco
from regnet_backbones.detection.data_checks.coco import read_coco
from regnet_backbones.detection.data_checks.datasets import check_datasets
from regnet_backbones.detection.data_checks.kinds import Defect, Kind, Report

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
    """Return what writes `data`, registers it as it is, and returns a config that uses it."""

    def register(**overrides):
        path = tmp_path / "data.json"
        path.write_text(json.dumps(data))
        for catalog in (DatasetCatalog, MetadataCatalog):
            if NAME in catalog.list():
                catalog.remove(NAME)
        register_coco_instances(NAME, {}, str(path), str(tmp_path))
        cfg = default_config()
        cfg.merge_from_file(QUICK)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), ()
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (SIZE,), "none"
        cfg.MODEL.DEVICE = "cpu"
        for key, value in overrides.items():
            cfg.merge_from_list([key.replace("__", "."), value])
        return cfg

    return register


@pytest.fixture
def found_in(data, tmp_path):
    """Return what reads and checks `data` as a user's own json, and returns the kinds found."""

    def find(*, train=True, masks="polygon"):
        path = tmp_path / "data.json"
        path.write_text(json.dumps(data))
        read = read_coco(path, image_root=tmp_path)
        found = list(read.defects)
        if not Report(read.defects).has_errors:
            found += check_coco(read, train=train, masks=masks)
        # But for what is noted of almost every change here.
        return {d.kind for d in found} - {kinds.UNUSED_CLASS, kinds.UNLIKE_MASK}

    return find


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


def kinds_of(cfg, images=None):
    return {defect.kind for defect in check_datasets(cfg, images=images).defects}


def change(data, **values):
    data["annotations"][0].update(values)


def test_good_data_has_no_defects_and_detectron2_uses_it_all(save, found_in):
    assert found_in() == found_in(train=False) == set()
    cfg = save()
    assert check_datasets(cfg, images=None).defects == ()
    assert [len(sample["instances"]) for sample in map_all(cfg)] == [2, 2]


# What stops detectron2 in loading or mapping


@pytest.mark.parametrize(
    ("values", "said", "raised"),
    [
        ({"bbox": [1, 2, 3]}, "'bbox' in 'annotations' must be", AssertionError),
        ({"bbox": None}, kinds.BOX_OF_POLYGONS.text, TypeError),
        ({"category_id": 9}, kinds.UNDEFINED_ID.text, KeyError),
        ({"category_id": "1"}, kinds.NUMBER_AS_TEXT.text, KeyError),
        ({"ignore": 1}, kinds.IGNORED.text, AssertionError),
        ({"id": 2}, kinds.ANNOTATION_ID.text, AssertionError),
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
            kinds.BROKEN_RLE.text,
            AssertionError,
        ),
    ],
)
def test_what_stops_detectron2_is_found(data, save, found_in, values, said, raised):
    change(data, **values)
    assert any(said in kind.text for kind in found_in())
    with pytest.raises(raised):
        map_all(save())


@pytest.mark.parametrize("empty", [[], None])
def test_masks_need_segmentations(data, save, found_in, empty):
    data["annotations"][1]["segmentation"] = empty
    assert found_in() == {kinds.NO_MASK}
    with pytest.raises(KeyError, match="segmentation"):
        map_all(save())
    assert found_in(masks="") == set()
    assert len(map_all(save(MODEL__MASK_ON=False))[0]["instances"]) == 2


# What detectron2 makes something else of


def test_ids_given_twice_lose_an_image_and_a_category(data, save, found_in):
    data["images"].append({**data["images"][0], "file_name": "2.png"})
    data["categories"].append({"id": 1, "name": "triangle"})
    assert found_in() == {kinds.DOUBLE_ID}
    assert len(map_all(save())) == 2
    assert "square" not in MetadataCatalog.get(NAME).thing_classes


def test_an_annotation_of_no_image_is_lost(data, save, found_in):
    change(data, image_id=9)
    assert found_in() == {kinds.UNDEFINED_ID}
    assert [len(sample["instances"]) for sample in map_all(save())] == [1, 2]


def test_an_id_of_zero_is_not_found_in_evaluation(data, save, found_in):
    data["annotations"] = [annotation(1, 1), annotation(2, 2)]
    save()
    assert evaluate(data)["bbox"]["AP"] == pytest.approx(100)
    change(data, id=0)
    assert found_in(train=False) == {kinds.ANNOTATION_ID}
    save()
    # Found at half the precision and up to half the recall, 51 of COCO's 101 points.
    assert evaluate(data)["bbox"]["AP"] == pytest.approx(100 * 51 / 101 / 2, abs=0.01)


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_evaluation_needs_keys_that_training_does_not(data, save, found_in, key):
    del data["annotations"][0][key]
    assert found_in() == {kinds.NO_AREA if key == "area" else kinds.NO_CROWD_FLAG}
    save()
    with pytest.raises(KeyError, match=key):
        evaluate(data)


@pytest.mark.parametrize("box", [[10, 10, 0, 30], [100, 100, 30, 30]])
def test_boxes_without_area_are_dropped_in_training_and_missed_in_evaluation(
    data, save, found_in, box
):
    change(data, bbox=box)
    assert found_in() == found_in(train=False) == {kinds.OUTSIDE}
    assert [len(sample["instances"]) for sample in map_all(save())] == [1, 2]
    data["annotations"] = data["annotations"][:1]  # alone in its image, nothing finds it
    save()
    assert evaluate(data)["bbox"]["AP"] == 0


def test_polygons_that_cannot_be_drawn(data, save, found_in):
    change(data, segmentation=[[1.0, 2.0, 3.0, 4.0]])
    assert found_in() == {kinds.DROPPED_POLYGON}
    assert [len(sample["instances"]) for sample in map_all(save())] == [1, 2]
    assert found_in(train=False) == {kinds.DROPPED_POLYGON, kinds.NO_POLYGON}
    with pytest.raises(TypeError):
        evaluate(data, ("segm",))
    # Next to one that can be drawn, a polygon of two points is taken for a box if it is the first.
    change(data, segmentation=[[1.0, 2.0, 3.0, 4.0], *SQUARE])
    assert found_in(train=False) == {kinds.DROPPED_POLYGON, kinds.NO_POLYGON}
    assert len(map_all(save())[0]["instances"].gt_masks.polygons[0]) == 1
    with pytest.raises(TypeError):
        evaluate(data, ("segm",))


def test_categories_of_one_name_are_noted(data, found_in):
    data["categories"].append({**data["categories"][0], "id": 7})
    assert found_in() == {kinds.SAME_NAME}


def test_a_polygon_at_the_end_of_the_world_is_not_drawn(data, found_in):
    """It would take minutes and gigabytes."""
    points = [2, 2, 1e9, 2, 1e9, 8]
    data["annotations"][0] |= {"segmentation": [points], "bbox": [2, 2, 1e9 - 2, 6]}
    assert found_in() == {kinds.FAR_POLYGON, kinds.CLIPPED_BOX}


def test_crowd_regions_and_empty_images_are_not_trained_on(data, save, found_in):
    change(data, iscrowd=1, segmentation=RLE)
    data["annotations"] = data["annotations"][:1] + data["annotations"][2:]
    assert found_in() == {kinds.CROWD, kinds.EMPTY_IMAGE}
    assert [len(sample["instances"]) for sample in map_all(save())] == [2]


def test_boxes_beyond_the_border_are_clipped(data, save, found_in):
    change(data, bbox=[50, 50, 30, 30], segmentation=[[50, 50, 80, 50, 80, 80, 50, 80]])
    assert found_in() == {kinds.CLIPPED_BOX}
    boxes = map_all(save())[0]["instances"].gt_boxes.tensor
    assert boxes[0].tolist() == [50, 50, 64, 64]
    change(data, bbox=[50, 50, 15, 14], segmentation=[[50, 50, 64, 50, 64, 64]])  # a rounded one
    assert found_in() == set()


def test_bitmasks_are_made_of_rle_and_polygons(data, save, found_in):
    change(data, segmentation=RLE)
    assert found_in(masks="bitmask") == set()
    masks = map_all(save(INPUT__MASK_FORMAT="bitmask"))[0]["instances"].gt_masks.tensor
    assert torch.equal(masks[0], masks[1])


def test_an_rle_is_read_as_pycocotools_does(data, found_in):
    mask = np.asfortranarray(np.random.default_rng(0).random((SIZE, SIZE)) < 0.1)
    text = coco_mask.encode(mask.astype(np.uint8, order="F"))["counts"].decode()
    for counts, expected in (
        (text, set()),
        (text[:-1], {kinds.BROKEN_RLE}),
        (text + "1", {kinds.BROKEN_RLE}),
    ):
        change(data, segmentation={"size": [SIZE, SIZE], "counts": counts})
        assert found_in(masks="bitmask") == expected


@pytest.mark.parametrize("counts", ["", "0", "0o", "zz", "é", "\n", [650, 30], [5000], [], {}])
def test_an_rle_that_gives_garbage_is_found_where_it_is_drawn(data, found_in, counts):
    """Pictures of the truth draw masks for a detector of boxes, too."""
    change(data, segmentation={"size": [SIZE, SIZE], "counts": counts})
    for train, masks in ((True, "bitmask"), (False, "polygon"), (False, ""), (True, "")):
        assert found_in(train=train, masks=masks) == {kinds.BROKEN_RLE}
    change(data, iscrowd=1)
    assert found_in(masks="bitmask") == {kinds.CROWD, kinds.BROKEN_RLE}


def test_an_rle_of_another_size_is_an_error_only_as_a_mask(data, found_in):
    change(data, segmentation={"size": [32, 32], "counts": [500, 24, 500]})
    assert found_in(masks="bitmask") == {kinds.BROKEN_RLE}
    assert found_in(masks="") == set()


# Registered datasets, and image files


def test_more_classes_than_the_model_has(save):
    assert kinds_of(save(MODEL__ROI_HEADS__NUM_CLASSES=1)) == {kinds.TOO_MANY_CLASSES}


def test_a_dataset_that_cannot_be_loaded_is_an_error(data, save):
    change(data, category_id=9)
    (defect,) = check_datasets(save(), images=0).defects
    assert defect.kind == kinds.UNLOADABLE
    assert "category_id=9" in defect.place


def test_deep_images_become_white(save, tmp_path):
    Image.fromarray(np.full((SIZE, SIZE), 4096, np.uint16)).save(tmp_path / "1.png")
    cfg = save()
    assert kinds_of(cfg) == {kinds.DEEP_IMAGE}
    assert (map_all(cfg)[0]["image"] == 255).all()


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
    assert defect.kind == kinds.WRONG_SIZE
    assert defect.place.endswith("2.png (64x64, the annotations say 65x64)")
    assert kinds_of(cfg, images=1) == set()
    with pytest.raises(ValueError, match="Mismatched image shape"):
        map_all(cfg)


def test_sizes_are_those_of_the_turned_image(data, save, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, SIZE)).save(tmp_path / "1.jpg", exif=exif)
    data["images"][0].update(file_name="1.jpg", width=SIZE, height=40)
    cfg = save()
    assert kinds_of(cfg) == {kinds.TURNED}
    assert map_all(cfg)[0]["image"].shape == (3, SIZE, 102)  # 64 * 64 / 40
    data["images"][0].update(width=40, height=SIZE)
    (defect,) = check_datasets(save(), images=None).defects
    assert "EXIF" in defect.place


def test_datasets_that_have_a_mapper_of_their_own_are_left_to_it(save):
    cfg = save()
    for records in ([{"pixels": 1}], torch.utils.data.TensorDataset(torch.zeros(1))):
        DatasetCatalog.remove(NAME)
        DatasetCatalog.register(NAME, lambda records=records: records)
        MetadataCatalog.remove(NAME)
        assert check_datasets(cfg, images=None).defects == ()


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

    def register(mask):
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
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), ()
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
def test_a_training_takes_colours_for_labels(masks, mask):
    cfg = masks(mask)
    assert kinds_of(cfg) == {kinds.MASK_COLOURS}
    assert map_all(cfg)[0]["sem_seg"].max() > 2


def test_labels_beyond_the_classes_spoil_the_evaluation(masks):
    assert kinds_of(masks(Image.fromarray(np.full((SIZE, SIZE), 5, np.uint8)))) == {
        kinds.MASK_LABELS
    }
    evaluator = SemSegEvaluator(NAME, distributed=False)
    evaluator.reset()
    prediction = torch.zeros(3, SIZE, SIZE)
    prediction[0] = 1
    evaluator.process([DatasetCatalog.get(NAME)[0]], [{"sem_seg": prediction}])
    # Neither predicted nor true, and counted as found.
    assert evaluator.evaluate()["sem_seg"]["IoU-b"] == 100


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


# The report


def test_a_report_of_many_defects_is_short_and_its_file_names_all(tmp_path):
    kind, other = Kind("error", "it is bad; correct it"), Kind("note", "it is odd; let it be")
    many = [
        Defect(kind, "mine", kinds.place(f"annotation {n} of a.png", "found"))
        for n in range(30_000)
    ]
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
    monkeypatch.setattr(run.launching, "run_in_processes", None)  # to call it would be a TypeError
    command = ["--config-file", QUICK, "--check-data", *own_data(tmp_path)]
    output = ["OUTPUT_DIR", str(tmp_path / "out")]
    save()
    assert main([*command, *output]) == 0
    printed = capsys.readouterr()
    assert "2 errors and notes" in printed.out
    assert kinds.IN_BOTH.text in printed.err
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:500])
    assert main([*command, *output]) == 2
    assert kinds.UNREADABLE_FILE.text in capsys.readouterr().err
    assert "2.png" in (tmp_path / "out" / "data_report.txt").read_text()


def test_a_training_checks_the_first_images(main, data, save, tmp_path, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(run.launching, "run_in_processes", lambda *_, **__: started.append(True))
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
