"""What evaluations in a training decide, and that they change nothing of it."""

import itertools
import math

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from killed_runs import fork_what_launch_starts
from small_training import NAME, draw_images, register, rows, small_config, train

from regnet_backbones.detection.config_checks import check_config
from regnet_backbones.detection.training.evaluations import MetricHistory, validation_losses
from regnet_backbones.detection.training.loader import build_test_loader, loss_mapper
from regnet_backbones.detection.training.trainer import Trainer

KERNEL = "backbone.bottom_up.s1.b1.conv1.conv.weight"

EVERY = [
    *("DATASETS.TEST", (NAME,)),
    *("INPUT.MIN_SIZE_TEST", 32),
    *("TEST.PICTURES", 0),
    *("TEST.EVAL_PERIOD", 1),
    *("SOLVER.MAX_ITER", 6),
]

RETINANET = [
    *("MODEL.META_ARCHITECTURE", "RetinaNet"),
    *("MODEL.BACKBONE.NAME", "build_retinanet_regnet_fpn_backbone"),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.RETINANET.NUM_CLASSES", 1),
    *("MODEL.RETINANET.NUM_CONVS", 1),
]


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder)
    MetadataCatalog.get(NAME).set(evaluator_type="coco", thing_classes=["box"])
    return folder


@pytest.fixture
def measured(monkeypatch):
    """Let an evaluation give a number that jumps about with the weights; note both."""
    noted = []

    def measure(cls, cfg, model, evaluators):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        noted.append((float(state[KERNEL].double().sum() * 1e6 % 50), state))
        return {"bbox": {"AP50": 1.0, "AP": noted[-1][0]}}

    monkeypatch.setattr(Trainer, "test", classmethod(measure))
    return noted


def history_of(folder):
    return torch.load(folder / "model_final.pth")["trainer"]["evaluations"]


@pytest.mark.parametrize("ema", [False, True])
def test_the_best_weights_are_kept_through_a_kill(measured, tmp_path, ema):
    options = [*EVERY, "MODEL.EMA.ENABLED", ema]
    train(small_config(tmp_path / "whole", *options))
    value, state = max(measured, key=lambda pair: pair[0])
    assert [pair[0] for pair in measured].index(value) != 5  # not the last
    folders = [tmp_path / "whole"]
    for stop in (3, 4, 5):  # checkpoints are of every second iteration
        folders.append(tmp_path / str(stop))
        cfg = small_config(folders[-1], *options)
        train(cfg, stop_after=stop)
        train(cfg, resume=True)
    for folder in folders:
        best = torch.load(folder / "model_best.pth")
        assert best["best"][:2] == ["bbox/AP", value]
        assert best["iteration"] + 1 == best["best"][2]
        assert all(torch.equal(best["model"][name], kept) for name, kept in state.items())
        assert history_of(folder) == history_of(folders[0])
        assert (folder / "last_checkpoint").read_text() == "model_final.pth"


def test_no_worse_weights_replace_better_ones(measured, tmp_path):
    """Where the evaluation that is repeated gives another number, as on a GPU."""
    cfg = small_config(tmp_path, *EVERY)
    train(cfg, stop_after=5)
    best = torch.load(tmp_path / "model_best.pth")
    best["best"][1] = 99.0
    torch.save(best, tmp_path / "model_best.pth")
    train(cfg, resume=True)
    assert torch.load(tmp_path / "model_best.pth")["best"][1] == 99.0


def test_the_metric_is_the_chief_one_or_as_told(caplog):
    several = {"a/bbox/AP50": 9.0, "a/bbox/AP": 2.0, "a/segm/AP": 1.0, "b/segm/AP": 8.0}
    for asked, expected in (("auto", "a/segm/AP"), ("b/segm/AP", "b/segm/AP")):
        history = MetricHistory(asked)
        history.add(1, several)
        assert history.metric == expected
    history = MetricHistory("bbox/mAP")
    assert math.isnan(history.add(1, several))
    assert history.without_improvement(0) == 0  # a wrong name ends no training
    assert "bbox/mAP" in caplog.text
    assert "a/bbox/AP50" in caplog.text


@pytest.mark.parametrize(
    ("metric", "values", "min_delta", "expected"),
    [
        ("bbox/AP", [1, 2, 3], 0, 0),
        ("bbox/AP", [1, 3, 2, 3], 0, 2),
        ("bbox/AP", [1, 1.4, 1.8, 2.2], 1, 0),  # better than the last that counted
        ("bbox/AP", [1, 1.4, 1.8], 1, 2),
        ("bbox/AP", [math.nan, math.nan], 0, 2),
        ("val_total_loss", [3, 2, 2.5], 0, 1),
    ],
)
def test_evaluations_without_improvement_are_counted(metric, values, min_delta, expected):
    history = MetricHistory(metric, dict(enumerate(values)))
    assert history.without_improvement(min_delta) == expected


PATIENT = ["SOLVER.EARLY_STOPPING.PATIENCE", 2]


def test_early_stopping_is_the_end_until_patience_is_raised(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(Trainer, "test", lambda *_: {"bbox": {"AP": 7.0}})
    _, whole = train(small_config(tmp_path / "whole", *EVERY))
    for name, stop in (("killed", 2), ("run", None)):
        cfg = small_config(tmp_path / name, *EVERY, *PATIENT)
        if stop:
            train(cfg, stop_after=stop)
        losses, _ = train(cfg, resume=bool(stop))
        assert max(losses) == 2
        assert (tmp_path / name / "last_checkpoint").read_text() == "model_final.pth"
        assert rows(tmp_path / name)[-1]["bbox/AP"] == 7.0
    assert history_of(tmp_path / "killed") == history_of(tmp_path / "run")
    caplog.clear()
    with caplog.at_level("INFO"):
        losses, _ = train(cfg, resume=True)
    assert losses == {}
    assert "SOLVER.EARLY_STOPPING.PATIENCE" in caplog.text
    cfg.SOLVER.EARLY_STOPPING.PATIENCE = 0
    losses, weights = train(cfg, resume=True)
    assert list(losses) == [3, 4, 5]
    assert all(torch.equal(weights[name], value) for name, value in whole.items())


def in_two_processes(folder, output):
    register(folder)
    MetadataCatalog.get(NAME).set(evaluator_type="coco", thing_classes=["box"])
    # The first process alone has results.
    Trainer.test = lambda *_: {} if comm.get_rank() else {"bbox": {"AP": 7.0}}
    losses, _ = train(small_config(output, *EVERY, *PATIENT, "TEST.LOSS", True))
    assert max(losses) == 2


def test_two_processes_end_as_one(images, tmp_path, monkeypatch):
    fork_what_launch_starts(monkeypatch)
    launch(in_two_processes, 2, dist_url="auto", args=(images, tmp_path))
    assert "val_total_loss" in rows(tmp_path)[-1]


# Losses


@pytest.mark.parametrize(
    "options",
    [[], [*RETINANET, "MODEL.EMA.ENABLED", True], ["MODEL.FPN.NORM", "BN", "VIS_PERIOD", 1]],
    ids=["R-CNN", "RetinaNet, averaged", "norms"],
)
def test_losses_of_val_images_change_nothing(monkeypatch, tmp_path, options):
    monkeypatch.setattr(Trainer, "test", lambda *_: {})
    found, metrics = [], []
    for loss in (False, True):
        folder = tmp_path / str(loss)
        found.append(train(small_config(folder, *EVERY, *options, "TEST.LOSS", loss)))
        metrics.append({k: v for row in rows(folder) for k, v in row.items()})
    (expected, weights), (losses, same) = found
    for step in expected:
        logged = losses[step].items()
        assert {k: v for k, v in logged if not k.startswith("val_")} == expected[step]
    assert all(torch.equal(same[name], value) for name, value in weights.items())
    new = {k: v for k, v in metrics[1].items() if k not in metrics[0]}
    assert new.pop("val_total_loss") == pytest.approx(sum(new.values()))
    assert {name.removeprefix("val_loss/") for name in new} == {
        name for name in expected[0] if name != "total_loss"
    }


@pytest.mark.parametrize("options", [[], RETINANET], ids=["R-CNN", "RetinaNet"])
def test_losses_are_those_of_the_evaluated_network(tmp_path, options):
    """Twice the same, and those of a model whose statistics of batch norm are fixed."""
    cfg = small_config(tmp_path, *EVERY, *options)
    model = Trainer.build_model(cfg)
    model.train()
    batches = list(itertools.islice(build_test_loader(cfg, NAME, mapper=loss_mapper(cfg)), 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    normalizer = 50.0 if options else None
    with EventStorage() as storage:
        first, second = (
            validation_losses(model, batches, seed=0, normalizer=normalizer) for _ in range(2)
        )
        assert get_event_storage() is storage
        assert not storage.latest()
    assert first == second
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not hasattr(model, "loss_normalizer")
    if not options:
        return
    # By hand: nothing of RetinaNet is drawn.
    for module in model.modules():
        module.training = module is model
    model.loss_normalizer = normalizer
    with torch.no_grad(), EventStorage():
        losses = [sum(model(batch).values()) for batch in batches]
    assert first["val_total_loss"] == pytest.approx(float(sum(losses)) / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ([*PATIENT, "TEST.EVAL_PERIOD", 0], "TEST.EVAL_PERIOD"),
        ([*PATIENT, "TEST.BEST_METRIC", ""], "TEST.BEST_METRIC"),
        (["TEST.BEST_METRIC", "val_total_loss"], "TEST.LOSS"),
    ],
)
def test_settings_that_need_others_are_refused(tmp_path, options, key):
    with pytest.raises(ValueError, match=key):
        check_config(small_config(tmp_path, *EVERY, *options), training=True)
