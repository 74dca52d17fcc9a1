"""A run that is stopped and resumed equals an unbroken one, bit by bit."""

import itertools
import os
import random
import signal

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.engine import HookBase, launch
from detectron2.utils import comm
from killed_runs import fork_what_launch_starts
from PIL import Image
from small_training import COUNT, NAME, draw_images, register, rows, small_config, train

from regnet_backbones.detection.training.loader import TrainLoader, train_mapper
from regnet_backbones.detection.training.trainer import StopEvaluation, Trainer
from regnet_backbones.errors import DivergedError
from regnet_backbones.runs.trained import METRICS_NAME, read_metrics


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder)
    return folder


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


EXACT = {
    "no workers": [],
    "two workers, a drawn seed": ["DATALOADER.NUM_WORKERS", 2, "SEED", -1],
    "averaged weights, precise batch norm, any orientation": [
        *("DATALOADER.ASPECT_RATIO_GROUPING", False),
        *("MODEL.EMA.ENABLED", True),
        *("TEST.PRECISE_BN.ENABLED", True),
        *("TEST.PRECISE_BN.NUM_ITER", 2),
    ],
    "learning rates that fall from stage to stage, a cosine with an end": [
        *("SOLVER.BACKBONE_LR_FACTOR", 0.5, "SOLVER.LAYER_DECAY", 0.8),
        *("SOLVER.BASE_LR_END", 0.0001, "MODEL.BACKBONE.FREEZE_AT", 2),
    ],
    "a running mean that divides losses": [
        *("MODEL.META_ARCHITECTURE", "RetinaNet"),
        *("MODEL.BACKBONE.NAME", "build_retinanet_regnet_fpn_backbone"),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.RETINANET.NUM_CLASSES", 1),
        *("MODEL.RETINANET.NUM_CONVS", 1),
        *("TEST.PRECISE_BN.ENABLED", True),
        *("TEST.PRECISE_BN.NUM_ITER", 1),
        *("TEST.EVAL_PERIOD", 1),
    ],
}


@pytest.mark.parametrize("overrides", EXACT.values(), ids=EXACT)
def test_a_resumed_run_has_the_losses_and_weights_of_an_unbroken_one(images, tmp_path, overrides):
    whole_losses, whole_weights = train(small_config(tmp_path / "whole", *overrides))
    cfg = small_config(tmp_path / "stopped", *overrides)
    before, _ = train(cfg, stop_after=3)
    after, weights = train(cfg, resume=True)
    assert list(after) == [2, 3, 4]  # the checkpoint is of the second iteration
    assert {**before, **after} == whole_losses
    assert len({losses["total_loss"] for losses in whole_losses.values()}) == 5
    assert_same_weights(weights, whole_weights)
    final = [torch.load(tmp_path / run / "model_final.pth") for run in ("whole", "stopped")]
    assert_same_weights(final[1]["model"], final[0]["model"])


# Signals, and rows of the metrics


EVALUATED = [
    *("DATASETS.TEST", (NAME,)),
    *("INPUT.MIN_SIZE_TEST", 32),
    *("TEST.PICTURES", 0),
    *("TEST.EVAL_PERIOD", 3),
    *("SOLVER.MAX_ITER", 6),
    *("SOLVER.CHECKPOINT_PERIOD", 4),
]


@pytest.fixture(scope="module")
def evaluated(images, tmp_path_factory):
    """Train without a break, with two evaluations."""
    MetadataCatalog.get(NAME).set(evaluator_type="coco", thing_classes=["box"])
    output = tmp_path_factory.mktemp("evaluated")
    return output, *train(small_config(output, *EVALUATED))


@pytest.mark.parametrize(
    ("signal_in", "in_evaluation", "saved"),
    [
        (0, None, "model_0000000.pth"),
        (5, None, "model_final.pth"),
        (None, 0, "model_0000002.pth"),
        (None, 1, "model_final.pth"),
    ],
)
def test_a_run_that_a_signal_stops_is_resumed_exactly(
    images, evaluated, tmp_path, monkeypatch, signal_in, in_evaluation, saved
):
    """Also where the signal comes in an evaluation, which is repeated."""
    whole, whole_losses, whole_weights = evaluated
    cfg = small_config(tmp_path, *EVALUATED)
    count = itertools.count()
    with monkeypatch.context() as patch:

        def reset(self):
            if next(count) == in_evaluation:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(StopEvaluation, "reset", reset)
        before, _ = train(cfg, signal_in=signal_in)
    assert (tmp_path / "last_checkpoint").read_text() == saved
    after, weights = train(cfg, resume=True)
    assert not before.keys() & after.keys()
    assert {**before, **after} == whole_losses
    assert_same_weights(weights, whole_weights)
    found, expected = (read_metrics(folder / METRICS_NAME) for folder in (tmp_path, whole))
    for merged in (found, expected):
        assert [row["iteration"] for row in merged if "bbox/AP" in row] == [2, 6]
    assert rows(tmp_path)[-1] == rows(whole)[-1]


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(images, evaluated, tmp_path):
    cfg = small_config(tmp_path, *EVALUATED)
    train(cfg, stop_after=5)
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 9, "total_loss": 1.0}\n{"itera')  # cut, too
    _, weights = train(cfg, resume=True)
    assert max(row["iteration"] for row in rows(tmp_path)) == 6
    assert_same_weights(weights, evaluated[2])


class SpoiledLoss(HookBase):
    """Make a loss of the second process NaN in one iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train(self):
        if comm.get_rank() == 1:
            self.trainer.checkpointer.model.register_forward_hook(self.spoil)

    def spoil(self, model, arguments, losses):
        if self.trainer.iter == self.iteration:
            return {**losses, "loss_cls": losses["loss_cls"] * float("nan")}


def in_two_processes(folder, output):
    """Train as one of two processes: unbroken, killed, with a signal, and with a bad loss."""
    register(folder)
    MetadataCatalog.get(NAME).set(evaluator_type="coco", thing_classes=["box"])
    whole, _ = train(small_config(output / "whole"))
    assert list(whole) == [0, 1, 2, 3, 4]
    cfg = small_config(output / "killed")
    before, _ = train(cfg, stop_after=3)
    cfg.merge_from_list(["DATASETS.TEST", (NAME,), "INPUT.MIN_SIZE_TEST", 32, "TEST.PICTURES", 0])
    after, _ = train(cfg, resume=True)
    assert list(after) == [2, 3, 4]
    assert {**before, **after} == whole
    # One process gets the signal, in its third step: all stop after it.
    cfg = small_config(output / "signalled")
    before, _ = train(cfg, signal_in=2 if comm.get_rank() else None)
    assert list(before) == [0, 1, 2]
    after, _ = train(cfg, resume=True)
    assert {**before, **after} == whole
    trainer = Trainer(small_config(output / "diverged"))
    trainer.register_hooks([SpoiledLoss(3)])
    with pytest.raises(DivergedError) as raised:
        trainer.train()
    (output / f"{comm.get_rank()}.txt").write_text(str(raised.value))


def test_two_processes_resume_and_stop_as_one(images, tmp_path, monkeypatch):
    fork_what_launch_starts(monkeypatch)
    launch(in_two_processes, 2, dist_url="auto", args=(images, tmp_path))
    assert "bbox/AP" in rows(tmp_path / "killed")[-1]
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert "the loss of iteration 3" in first
    assert "process 1:\n  loss_cls nan" in first
    assert "process 0:" not in first
    assert (tmp_path / "diverged" / "last_checkpoint").read_text() == "model_0000001.pth"


# What is not exact is said


def edited(output, change):
    """Change the state of the trainer in the last checkpoint of a run."""
    path = output / (output / "last_checkpoint").read_text()
    checkpoint = torch.load(path)
    change(checkpoint["trainer"])
    torch.save(checkpoint, path)


def test_what_changed_since_the_checkpoint_is_warned_of(images, tmp_path, caplog):
    train(small_config(tmp_path), stop_after=2)
    changes = {
        "SEED": (0, 5),
        "SOLVER.IMS_PER_BATCH": (2, 1),
        "SOLVER.MAX_ITER": (5, 3),
        "TEST.EVAL_PERIOD": (0, 9),
    }
    overrides = itertools.chain.from_iterable((key, now) for key, (_, now) in changes.items())
    edited(tmp_path, lambda state: state["config"].update({"processes": 4}))
    losses, _ = train(small_config(tmp_path, *overrides), resume=True)
    assert list(losses) == [2]
    (said,) = [r.getMessage() for r in caplog.records if "config that differs" in r.getMessage()]
    for key in ("SEED", "SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER"):
        assert "{} was {} and is {}".format(key, *changes[key]) in said
    assert "the number of processes was 4 and is 1" in said
    assert "TEST" not in said


# The loader


def loader(*overrides, mapper=lambda record: record):
    return TrainLoader(small_config("/tmp", *overrides), mapper)


def ids(batches, count):
    return [[record["image_id"] for record in batch] for batch in itertools.islice(batches, count)]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def test_every_image_comes_once_in_an_epoch_in_an_order_of_its_own(images):
    found = ids(loader("DATALOADER.ASPECT_RATIO_GROUPING", False), 10)
    first, second = flat(found[:5]), flat(found[5:])
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert found != ids(loader("DATALOADER.ASPECT_RATIO_GROUPING", False, "SEED", 1), 10)


@pytest.mark.parametrize("grouping", [True, False])
def test_batches_that_are_left_out_are_not_read(images, grouping):
    whole = ids(loader("DATALOADER.ASPECT_RATIO_GROUPING", grouping), 20)
    read = []
    skipping = loader(
        "DATALOADER.ASPECT_RATIO_GROUPING", grouping, mapper=lambda r: read.append(r) or r
    )
    skipping.resume(seed=0, batch=13)
    assert ids(skipping, 7) == whole[13:]
    assert len(read) == 14
    skipping.resume(seed=1, batch=0)
    assert ids(skipping, 20) == ids(
        loader("DATALOADER.ASPECT_RATIO_GROUPING", grouping, "SEED", 1), 20
    )


def test_wide_images_come_together_and_tall_ones(images):
    kinds = [{i % 2 for i in batch} for batch in ids(loader("SOLVER.IMS_PER_BATCH", 4), 20)]
    assert sorted(map(len, kinds)) == [1] * 20
    assert {0} in kinds
    assert {1} in kinds


def draw(record):
    return {"drawn": (random.random(), np.random.rand(), torch.rand(1).item()), **record}


def test_augmentation_is_that_of_the_place_in_the_order(images):
    def drawn(num_workers, first=0):
        batches = loader("DATALOADER.NUM_WORKERS", num_workers, mapper=draw)
        batches.resume(seed=0, batch=first)
        return [r["drawn"] for batch in itertools.islice(batches, 8 - first) for r in batch]

    here = drawn(0)
    assert len(set(here)) == 16
    assert drawn(2) == here
    assert drawn(2, first=3) == here[6:]


def test_two_processes_share_the_batches_of_one(images, monkeypatch):
    options = ["DATALOADER.ASPECT_RATIO_GROUPING", False, "SOLVER.IMS_PER_BATCH", 4]
    one = list(itertools.islice(loader(*options, mapper=draw), 5))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", lambda value: [value, value])
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(list(itertools.islice(loader(*options, mapper=draw), 5)))
    for whole, first, second in zip(one, *parts, strict=True):
        assert whole == [first[0], second[0], first[1], second[1]]
    with pytest.raises(ValueError, match="must be a multiple of the 2 processes, got 3"):
        loader("SOLVER.IMS_PER_BATCH", 3)


def test_a_record_that_cannot_be_used_has_the_same_stand_in_everywhere(images):
    def without_3(record):
        return record if record["image_id"] != 3 else None

    plain = ["DATALOADER.ASPECT_RATIO_GROUPING", False]
    whole, found = (ids(loader(*plain, mapper=m), 10) for m in (lambda r: r, without_3))
    assert not any(3 in batch for batch in found)
    for theirs, ours in zip(flat(whole), flat(found), strict=True):
        assert theirs == ours or theirs == 3
    later = loader(*plain, "DATALOADER.NUM_WORKERS", 2, mapper=without_3)
    later.resume(seed=0, batch=4)
    assert ids(later, 6) == found[4:]
    with pytest.raises(ValueError, match="none of 10 training images"):
        next(iter(loader(mapper=lambda record: None)))


def test_sizes_that_records_lack_are_those_of_the_turned_files(images, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lay it on its side
    paths = [tmp_path / f"{n}.jpg" for n in range(4)]
    for number, path in enumerate(paths):
        picture = Image.new("RGB", (20, 10))
        picture.save(path, **({"exif": exif} if number % 2 else {}))
    name = "without_sizes"
    DatasetCatalog.register(
        name, lambda: [{"file_name": str(p), "image_id": n} for n, p in enumerate(paths)]
    )
    try:
        kinds = {frozenset(b) for b in ids(loader("DATASETS.TRAIN", (name,)), 40)}
    finally:
        DatasetCatalog.remove(name)
    assert {n % 2 for batch in kinds for n in batch} == {0, 1}
    assert all(len({n % 2 for n in batch}) == 1 for batch in kinds)


def test_the_other_samplers_go_on_too(images):
    plain = ["DATALOADER.ASPECT_RATIO_GROUPING", False, "SOLVER.IMS_PER_BATCH", 1]
    subset = [*plain, "DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"]
    found = ids(loader(*subset, "DATALOADER.RANDOM_SUBSET_RATIO", 0.5), 20)
    assert len({batch[0] for batch in found}) == 5
    later = loader(*subset, "DATALOADER.RANDOM_SUBSET_RATIO", 0.5)
    later.resume(seed=0, batch=12)
    assert ids(later, 8) == found[12:]

    rare = [{**r, "annotations": [dict(r["annotations"][0])]} for r in DatasetCatalog.get(NAME)]
    rare[7]["annotations"][0]["category_id"] = 1
    DatasetCatalog.register("rare", lambda: rare)
    # One image of ten has the class: sqrt(0.4 / 0.1), and so it comes twice in an epoch of eleven.
    repeats = [*plain, "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    repeats += ["DATALOADER.REPEAT_THRESHOLD", 0.4, "DATASETS.TRAIN", ("rare",)]
    try:
        found = flat(ids(loader(*repeats), 22))
        later = loader(*repeats)
        later.resume(seed=0, batch=15)
        assert flat(ids(later, 7)) == found[15:]
        with pytest.raises(ValueError, match="Unknown training sampler: Gone"):
            loader("DATALOADER.SAMPLER_TRAIN", "Gone")
    finally:
        DatasetCatalog.remove("rare")
    for epoch in (found[:11], found[11:]):
        assert sorted(epoch) == [0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9]


def test_detectron2s_loader_has_the_same_images(images):
    """Its own order, of the same sampler: with the mapper of the config, all that it gives."""
    cfg = small_config("/tmp", "INPUT.MIN_SIZE_TRAIN", (48,), "INPUT.RANDOM_FLIP", "none")
    ours, theirs = (
        {r["image_id"]: r for batch in itertools.islice(batches, 20) for r in batch}
        for batches in (
            TrainLoader(cfg, train_mapper(cfg)),
            build_detection_train_loader(cfg, mapper=train_mapper(cfg)),
        )
    )
    assert ours.keys() == theirs.keys() == set(range(COUNT))
    for number, record in ours.items():
        assert record.keys() == theirs[number].keys()
        assert torch.equal(record["image"], theirs[number]["image"])
        boxes = [r["instances"].gt_boxes.tensor for r in (record, theirs[number])]
        assert torch.equal(*boxes)
