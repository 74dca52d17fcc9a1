"""Nothing runs of what is data: weights, checkpoints and proposals, in whatever reads them."""

import contextlib
import io
import logging
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.structures import BoxMode
from malicious_files import bombs, forms, wrapped
from small_segmenter import train_segmenter
from torch import nn

from regnet_backbones import RegNetFeatures, shapes, weights
from regnet_backbones.detection.trained import WholeCheckpointer, load_proposals
from regnet_backbones.detection.training.checkpoint import TrainingCheckpointer
from regnet_backbones.semseg.checkpoints import load_data, load_segmenter
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.evaluation import evaluate
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.resume import AtomicCheckpointIO, check_resume
from regnet_backbones.weights.conversion import convert_file
from regnet_backbones.weights.unpickling import StandIn, read_content

# A line of a message, with the path of a file of the tests in it.
LONGEST_MESSAGE = 1500


class Trainer:
    """What a checkpointer of a training asks of one."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        assert isinstance(state, dict)


COUNT = torch.tensor(1)
FEATURES, OTHER = RegNetFeatures("regnetx_002"), nn.Linear(2, 1)
READINGS = {
    "read_content": read_content,
    "read_checkpoint": weights.read_checkpoint,
    "load": lambda path: weights.load(FEATURES, path),
    "convert": lambda path: convert_file(path, to="timm"),
    "detector": lambda path: WholeCheckpointer(FEATURES).load(str(path), checkpointables=[]),
    "other detector": lambda path: WholeCheckpointer(OTHER).load(str(path)),
    "training": lambda path: TrainingCheckpointer(OTHER, "", trainer=Trainer()).load(str(path)),
    "stock on ours": lambda path: DetectionCheckpointer(FEATURES).load(str(path)),
    "segmenter": load_segmenter,
    "data of a segmenter": load_data,
    "resume": lambda path: check_resume(path, None, None, {"max_steps": 1}),
    "checkpoint io": lambda path: AtomicCheckpointIO().load_checkpoint(path),
    "proposals": lambda path: load_proposals([{"image_id": 1}], str(path)),
}


def read(reading, path):
    """Read a file, or be told in one line why not."""
    try:
        return READINGS[reading](path)
    except ValueError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < LONGEST_MESSAGE
        return None


@pytest.mark.parametrize("name", bombs("marker"))
def test_nothing_of_a_file_is_run(name, tmp_path):
    marker = tmp_path / "marker"
    content = wrapped(bombs(marker)[name])
    for suffix, data in forms(content).items():
        path = tmp_path / suffix
        path.write_bytes(data)
        for reading in READINGS:
            read(reading, path)
            assert not marker.exists(), (reading, suffix)


def test_these_files_do_run_code_where_pickle_is_trusted(tmp_path):
    marker, gone_off = tmp_path / "marker", set()
    for name, operations in bombs(marker).items():
        marker.unlink(missing_ok=True)
        with contextlib.suppress(Exception):  # what comes after it, a result that does not fit
            Trusting(wrapped(operations)).load()
        gone_off |= {name} if marker.exists() else set()
    assert gone_off == set(bombs(marker))


class Trusting(pickle.Unpickler):
    def __init__(self, operations):
        super().__init__(io.BytesIO(operations), encoding="latin1")

    def persistent_load(self, identity):
        return identity


@pytest.mark.parametrize("where", ["sys info", "keys"])
def test_no_pickle_of_an_old_torch_file_is_run(where, tmp_path):
    marker = tmp_path / "marker"
    parts = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}, {"a": 1}, [])]
    parts[{"sys info": 2, "keys": 4}[where]] = wrapped(bombs(marker)["REDUCE"])
    (tmp_path / "a.pth").write_bytes(b"".join(parts))
    for reading in READINGS:
        read(reading, tmp_path / "a.pth")
    assert not marker.exists()


def test_the_augmentation_of_a_checkpoint_is_not_imported(tmp_path, monkeypatch):
    """A config may name a program; a checkpoint that names the same one is data."""
    (tmp_path / "bomb.py").write_text("open('marker', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    spec = shapes.ShapesSpec(num_train=2, num_val=1, image_size=64, seed=0)
    data = shapes.write(tmp_path / "shapes", spec).root / "semantic"
    trainer = train_segmenter(SegmentationData("ade20k", str(data), batch_size=2, num_workers=0))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["datamodule_hyper_parameters"]["augmentation"] = "bomb:augment"
    torch.save(content, tmp_path / "a.ckpt")
    evaluate(tmp_path / "a.ckpt", accelerator="cpu")
    data = load_data(tmp_path / "a.ckpt")
    data.setup()
    assert len(data.train_set[0]) == 3
    assert "bomb" not in sys.modules
    assert not (tmp_path / "marker").exists()


def test_what_builds_a_model_never_reaches_lightning(tmp_path):
    """Lightning below 2.6 imports the function and calls it, with the class that it imports."""
    arguments = {"_instantiator": "os.system", "_class_path": "antigravity.X", "num_classes": 2}
    arguments |= {"decoder": "Unet", "encoder": "regnetx_002"}
    content = {"state_dict": {}, "global_step": 1, "epoch": 0, "hyper_parameters": arguments}
    content["datamodule_hyper_parameters"] = {"_instantiator": "os.system", "crop_size": 8}
    torch.save(content, tmp_path / "a.ckpt")
    found = AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")
    assert "_class_path" not in found["hyper_parameters"]
    assert "_instantiator" not in {
        *found["hyper_parameters"],
        *found["datamodule_hyper_parameters"],
    }
    assert found["hyper_parameters"]["encoder"] == "regnetx_002"


def test_a_segmenter_is_not_built_by_lightning(tmp_path, monkeypatch):
    def build(*arguments, **options):
        raise AssertionError("Lightning builds it")

    monkeypatch.setattr("lightning.pytorch.core.saving._load_state", build)
    model = Segmenter(2, encoder="regnetx_002", encoder_weights=None)
    content = {"state_dict": model.state_dict(), "global_step": 1, "epoch": 0}
    content["hyper_parameters"] = dict(model.hparams) | {"_instantiator": "os.system"}
    torch.save(content, tmp_path / "a.ckpt")
    loaded = load_segmenter(tmp_path / "a.ckpt").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_other_objects_are_left_aside_and_named(tmp_path, caplog):
    content = {
        "state_dict": {"a": torch.ones(2)},
        "paths": [Path("a"), {"b": Path("c")}],
        "number": np.float64(2),
        "when": np.datetime64("2020-01-01"),
    }
    torch.save(content, tmp_path / "a.ckpt")
    caplog.set_level(logging.INFO, "regnet_backbones")
    extras = weights.read_checkpoint(tmp_path / "a.ckpt").extras
    assert extras["number"] == 2
    assert isinstance(extras["paths"][1]["b"], StandIn)
    assert extras["paths"][0].name.startswith("pathlib.")
    assert "pathlib." in caplog.text


def test_an_entry_that_is_no_tensor_is_named(tmp_path):
    state = {"a": torch.ones(2), "b": Path("x"), "c": torch.eye(3).to_sparse()}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"b \(pathlib\..*Path\), c \(torch.*sparse") as error:
        weights.read_checkpoint(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


# Proposals


def proposals(**changes):
    content = {
        "ids": [1, "b"],
        "boxes": [np.array([[0.0, 0, 4, 4], [1, 1, 3, 3]]), np.zeros((1, 4))],
        "objectness_logits": [np.array([0.1, 0.9], "f4"), np.zeros(1)],
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }
    return {**content, **changes}


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_proposals_are_those_of_the_file_the_best_first(protocol, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(proposals(), protocol=protocol))
    (record,) = load_proposals([{"image_id": 1}], str(tmp_path / "a.pkl"))
    assert record["proposal_boxes"].tolist() == [[1, 1, 3, 3], [0, 0, 4, 4]]
    assert record["proposal_objectness_logits"].tolist() == pytest.approx([0.9, 0.1])
    assert record["proposal_bbox_mode"] is BoxMode.XYXY_ABS


def test_proposals_of_detectron_have_other_names(tmp_path):
    content = proposals()
    content = {"indexes": content["ids"], "scores": content["objectness_logits"]} | {
        "boxes": content["boxes"]
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=2))
    (record,) = load_proposals([{"image_id": "b"}], str(tmp_path / "a.pkl"))
    assert record["proposal_boxes"].shape == (1, 4)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([1], "ids"),
        (proposals(ids=[1]), "ids"),
        (proposals(boxes=None), "boxes"),
        (proposals(bbox_mode=7), "7"),
        (proposals(bbox_mode=BoxMode.XYXY_ABS), "bbox_mode"),
        (proposals(ids=[2, 3]), "each image"),
    ],
)
def test_other_proposals_are_refused(content, named, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=named):
        load_proposals([{"image_id": 1}], str(tmp_path / "a.pkl"))


def test_a_detector_reads_its_proposals_with_this_reader(tmp_path):
    from detectron2.data import DatasetCatalog
    from small_training import NAME, draw_images, small_config

    from regnet_backbones.detection.training.trainer import Trainer as DetectorTrainer

    draw_images(tmp_path)
    images = [record["image_id"] for record in DatasetCatalog.get(NAME)]
    boxes = [np.array([[2.0, 2, 30, 30], [8, 8, 24, 20]]) for _ in images]
    good = {"ids": images, "boxes": boxes, "objectness_logits": [np.array([0.0, 1])] * len(images)}
    marker = tmp_path / "marker"
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(good))
    (tmp_path / "bad.pkl").write_bytes(wrapped(bombs(marker)["REDUCE"]))
    options = ("MODEL.LOAD_PROPOSALS", True, "DATASETS.TEST", (NAME,), "DATALOADER.NUM_WORKERS", 0)
    for name in ("good", "bad"):
        files = (str(tmp_path / f"{name}.pkl"),)
        cfg = small_config(tmp_path / "run", *options)
        cfg.DATASETS.PROPOSAL_FILES_TRAIN = cfg.DATASETS.PROPOSAL_FILES_TEST = files
        if name == "good":
            sample = next(iter(DetectorTrainer.build_train_loader(cfg)))[0]
            assert len(sample["proposals"]) == 2
            assert sample["proposals"].objectness_logits.tolist() == [1, 0]
            continue
        for build in (
            lambda: DetectorTrainer.build_train_loader(cfg),  # noqa: B023
            lambda: DetectorTrainer.build_test_loader(cfg, NAME),  # noqa: B023
        ):
            with pytest.raises(ValueError, match="bad.pkl"):
                build()
    assert not marker.exists()


# Files of models without a RegNet


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("zoo.pkl", {"model": {"weight": np.ones((1, 2), "f4")}, "__author__": "x"}),
        ("caffe2.pkl", {"blobs": {"weight": np.ones((1, 2), "f4"), "weight_momentum": np.ones(1)}}),
        ("flat.pkl", {"weight": np.ones((1, 2), "f4"), "bias_momentum": np.ones(1)}),
        ("a.pyth", {"model_state": {"weight": torch.ones(1, 2), "n.num_batches_tracked": COUNT}}),
        ("a.pth", {"model": {"weight": torch.ones(1, 2)}, "iteration": 3}),
        ("bare.pth", {"weight": torch.ones(1, 2), "bias": torch.ones(1)}),
    ],
)
def test_files_of_other_models_mean_what_they_mean_to_detectron2(name, content, tmp_path):
    path = tmp_path / name
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    expected = DetectionCheckpointer(OTHER)._load_file(str(path))
    found = WholeCheckpointer(OTHER)._load_file(str(path))
    assert found.keys() == expected.keys()
    assert found["model"].keys() == expected["model"].keys()
    for weight, value in expected.pop("model").items():
        assert torch.equal(found["model"][weight], torch.as_tensor(value))
    found.pop("model")
    assert found == expected


def test_random_operations_end_in_one_line(tmp_path):
    """Operations in any order, and any damage to them."""
    drawn = random.Random(0)
    parts = [*bombs(tmp_path / "marker").values(), *(bytes([code]) for code in b"()]}0123aestubo.")]
    for number in range(300):
        operations = wrapped(b"".join(drawn.choices(parts, k=drawn.randrange(1, 12))))
        if number % 2:
            operations = operations[: drawn.randrange(len(operations))]
        (tmp_path / "a").write_bytes(drawn.choice([*forms(operations).values()]))
        read("read_content", tmp_path / "a")
    assert not (tmp_path / "marker").exists()
