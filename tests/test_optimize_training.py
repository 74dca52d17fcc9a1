"""`OPTIMIZE` in the training of detectors: the same losses and checkpoints, in every process."""

from itertools import product

import pytest
import torch
from small_training import draw_images, small_config, train
from timm.layers import ConvNormAct, freeze_batch_norm_2d
from torch import nn
from torch._inductor import config as inductor_config

from regnet_backbones import config_path
from regnet_backbones.cli.train import train_detector
from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.config_checks import check_config
from regnet_backbones.detection.run import read_run_config
from regnet_backbones.detection.trained import (
    optimization_of,
    typical_size,
)
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.optimize import passes
from regnet_backbones.optimize.options import Optimization, optimize_training

QUICK = str(config_path("detectron2/quick/faster_rcnn_regnet_small_fpn.yaml"))
ON = ["OPTIMIZE.ENABLED", True]
FROZEN = ["MODEL.REGNET.NORM", "FrozenBN", "MODEL.FPN.NORM", "FrozenBN"]


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder)
    return folder


# The training


def test_losses_and_weights_are_those_without(tmp_path, caplog):
    frozen = [*FROZEN, "SOLVER.MAX_ITER", 3]
    losses, weights = train(small_config(tmp_path / "off", *frozen))
    with caplog.at_level("INFO", "regnet_backbones.optimize.options"):
        on = [*ON, "OPTIMIZE.FOLD", "on"]
        fast, fast_weights = train(small_config(tmp_path / "on", *frozen, *on))
    # Of 4 blocks each 3 convolutions and 4 shortcuts that change the size, and the stem; the FPN's
    # 4 lateral and 4 output ones stay.
    assert "17 folded on the fly, 8 left" in caplog.text
    assert caplog.text.count("optimized for training") == 1
    assert list(fast) == [0, 1, 2]
    for iteration, expected in losses.items():
        assert fast[iteration] == pytest.approx(expected, rel=1e-4, abs=1e-8), iteration
    assert list(fast_weights) == list(weights)


AVERAGED = ["MODEL.EMA.ENABLED", True, "TEST.PRECISE_BN.ENABLED", True]
AVERAGED += ["TEST.PRECISE_BN.NUM_ITER", 2]


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """Return the losses and the weights of a run that is not resumed."""
    folder = tmp_path_factory.mktemp("whole")
    losses, _ = train(small_config(folder, *AVERAGED))
    return losses, torch.load(folder / "model_final.pth", weights_only=True)


@pytest.mark.parametrize(("first", "second"), [(ON, []), ([], ON)])
def test_a_run_goes_on_with_and_without(tmp_path, first, second, whole):
    """With averaged weights and precise batch norm; of AdamW, differences grow with the steps."""
    expected, whole = whole
    train(small_config(tmp_path, *AVERAGED, *first), stop_after=2)
    found, _ = train(small_config(tmp_path, *AVERAGED, *second), resume=True)
    assert list(found) == [2, 3, 4]
    for iteration, losses in found.items():
        total = expected[iteration]["total_loss"]
        assert losses["total_loss"] == pytest.approx(total, rel=1e-2)
    run = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert list(run) == list(whole)
    assert list(run["model"]) == list(whole["model"])


@pytest.mark.parametrize("fold", ["on", "off"])
def test_a_resumed_run_is_exact_where_nothing_is_measured(tmp_path, fold):
    options = [*FROZEN, *ON, "OPTIMIZE.MEMORY_FORMAT", "channels_last", "OPTIMIZE.FOLD", fold]
    expected, weights = train(small_config(tmp_path / "whole", *options))
    train(small_config(tmp_path / "run", *options), stop_after=2)
    found, found_weights = train(small_config(tmp_path / "run", *options), resume=True)
    assert found == {iteration: expected[iteration] for iteration in (2, 3, 4)}
    for name, weight in weights.items():
        assert torch.equal(found_weights[name], weight), name


# What is shared with segmenters


class Small(nn.Sequential):
    """Two convolutions."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))


def layout_of(network):
    conv = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    last = conv.weight.is_contiguous(memory_format=torch.channels_last)
    return "channels_last" if last else "contiguous"


class Frozen(nn.Sequential):
    """A convolution whose frozen norm can be folded."""

    def __init__(self):
        super().__init__(freeze_batch_norm_2d(ConvNormAct(3, 4, 3)))


@pytest.mark.parametrize("slow", ["plain", "folded"])
@pytest.mark.parametrize("of_the_first", ["contiguous", "channels_last"])
def test_all_processes_take_what_the_first_has_measured(monkeypatch, of_the_first, slow):
    own = "contiguous" if of_the_first == "channels_last" else "channels_last"

    def measure(networks, formats, *_, **__):
        assert list(networks) == ["plain", "folded"]
        return {
            pair: 1.0 + (pair[0] == here) + (pair[1] == of_the_first)
            for pair in product(networks, formats)
        }

    monkeypatch.setattr(passes, "measure_steps", measure)
    here, heard, network = slow, [], Frozen()
    answers = {own: of_the_first, "on": "off", "off": "on"}
    report = optimize_training(
        network,
        Optimization(),
        image_size=(32, 32),
        batch_size=2,
        from_first=lambda text: heard.append(text) or answers[text],
    )
    assert heard == ["on" if slow == "plain" else "off", own]
    assert layout_of(network[0]) == report.memory_format == of_the_first
    assert bool(report.folded) == (slow == "folded")
    assert report.not_applied == ()
    assert len(report.seconds) == 4


@pytest.mark.parametrize("fold", ["on", "off"])
def test_a_given_choice_is_not_measured(monkeypatch, fold):
    monkeypatch.setattr(passes, "measure_steps", None)  # measuring would be a TypeError
    network = Frozen()
    settings = Optimization(fold=fold, memory_format="channels_last")
    report = optimize_training(network, settings, image_size=(32, 32), batch_size=2)
    assert layout_of(network[0]) == "channels_last"
    assert (report.seconds, len(report.folded)) == ({}, int(fold == "on"))


def test_mixed_precision_is_measured_and_left_to_the_trainer(monkeypatch):
    measured = []

    def measure(networks, formats, images, *, training, dtype):
        measured.append((tuple(images.shape), training, dtype))
        return dict.fromkeys(product(networks, formats), 1.0)

    monkeypatch.setattr(passes, "measure_steps", measure)
    network = Small()
    sizes = {"image_size": (32, 48), "batch_size": 8}
    optimize_training(network, Optimization(), **sizes, autocast=torch.bfloat16)
    assert measured == [((2, 3, 32, 48), True, torch.bfloat16)]  # two are enough on a CPU
    assert network(torch.rand(1, 3, 8, 8)).dtype == torch.float32


# The config


def test_it_is_off_by_default(tmp_path, caplog):
    assert optimization_of(default_config()) is None
    with caplog.at_level("INFO", "regnet_backbones.optimize.options"):
        trainer = Trainer(small_config(tmp_path, *FROZEN))
    assert "optimized" not in caplog.text
    kinds = {type(module).__module__ for module in trainer.model.modules()}
    assert not any(kind.startswith("regnet_backbones.optimize") for kind in kinds)


@pytest.mark.parametrize(
    ("options", "enabled", "compiles"),
    [([], False, False), (["--optimize"], True, False), (["--compile"], True, True)],
)
def test_options_of_the_command_line(tmp_path, options, enabled, compiles):
    args = ["--config-file", QUICK, "--skip-data-check", *options]
    args += ["DATASETS.TEST", "()", "DATASETS.TRAIN", "('coco_2017_train',)"]
    cfg, _ = read_run_config(train_detector.parser("").parse_args(args))
    assert (cfg.OPTIMIZE.ENABLED, cfg.OPTIMIZE.COMPILE) == (enabled, compiles)


def test_compilation_is_asked_for(tmp_path, compiled):
    Trainer(small_config(tmp_path, *ON, "OPTIMIZE.COMPILE", True))
    assert compiled == [False]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DTYPE", "int8", "must be one of float32, bfloat16, float16, got 'int8'"),
        ("FOLD", "yes", "must be one of auto, on, off"),
        ("MEMORY_FORMAT", "nhwc", "must be one of auto, contiguous, channels_last"),
    ],
)
def test_unknown_values_are_refused(key, value, message):
    cfg = default_config()
    cfg.OPTIMIZE[key] = value
    with pytest.raises(ValueError, match=f"OPTIMIZE.{key} {message}"):
        check_config(cfg, training=True)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_compiler_that_is_not_there_is_named_before_the_training(monkeypatch, device):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    cfg = default_config()
    cfg.OPTIMIZE.ENABLED = cfg.OPTIMIZE.COMPILE = True
    cfg.MODEL.DEVICE = device
    message = {"cpu": r"set \$CXX", "cuda": r"set \$CC"}
    with (
        inductor_config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(ValueError, match=message[device]),
    ):
        check_config(cfg, training=True)


def test_a_type_for_trained_models_is_no_precision_of_the_training(caplog):
    cfg = default_config()
    cfg.OPTIMIZE.ENABLED, cfg.OPTIMIZE.DTYPE = True, "bfloat16"
    check_config(cfg, training=False)
    assert not caplog.records
    check_config(cfg, training=True)
    assert "OPTIMIZE.DTYPE bfloat16 is ignored in training" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "divisor", "expected"),
    [
        # 800 by 1066.7, up to multiples of 32.
        (["INPUT.MIN_SIZE_TEST", 800], 32, (800, 1088)),
        (["INPUT.MIN_SIZE_TEST", 800], 0, (800, 1067)),
        # The longer side is at most 512.
        (["INPUT.MIN_SIZE_TEST", 800, "INPUT.MAX_SIZE_TEST", 512], 32, (384, 512)),
        # Images in their own size.
        (["INPUT.MIN_SIZE_TEST", 0], 32, (480, 640)),
    ],
)
def test_sizes_are_typical(overrides, divisor, expected):
    cfg = default_config()
    cfg.merge_from_list(overrides)
    assert typical_size(cfg, divisor) == expected
