"""`optimize` and `compile` in the training of segmenters: the same losses and checkpoints."""

import re
from itertools import product

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from load_tool import load_tool

from regnet_backbones import config_path, shapes
from regnet_backbones.optimize import passes
from regnet_backbones.semseg.checkpoints import load_segmenter
from regnet_backbones.semseg.module import Segmenter

QUICK = config_path("semseg/quick/unet_regnet_small_shapes.yaml")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=8, num_val=2, image_size=64)
    return shapes.write(tmp_path_factory.mktemp("shapes") / "shapes", spec)


def train(dataset, output, steps, *options):
    """Train with the tool, and return its last checkpoint."""
    arguments = [
        *("--config", QUICK, "--output", output, "--trainer.accelerator", "cpu"),
        *("--data.root", dataset.root / "semantic", "--data.crop_size", 64),
        *("--data.batch_size", 4, "--data.num_workers", 0, "--model.pictures", 0),
        *("--trainer.max_steps", steps, "--trainer.val_check_interval", 2),
        *("--trainer.log_every_n_steps", 1, "--trainer.enable_progress_bar", "false"),
        *("--model.channels_last", "false"),
        *options,
    ]
    assert load_tool("train_semseg").main([str(argument) for argument in arguments]) == 0
    return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)


ON = ["--model.optimize", "true"]


@pytest.fixture(scope="module")
def plain(dataset, tmp_path_factory):
    """Return the last checkpoint of a run without, and its folder."""
    folder = tmp_path_factory.mktemp("plain")
    return train(dataset, folder, 2), folder


def test_weights_are_those_without(dataset, plain, tmp_path, caplog):
    fast = train(dataset, tmp_path, 2, *ON)
    assert caplog.text.count("optimized for training") == 1
    # Nothing of a U-Net is frozen.
    assert re.search(r"measured +plain, contiguous .*; plain, channels_last", caplog.text)
    expected, _ = plain
    assert list(fast["state_dict"]) == list(expected["state_dict"])
    # Two steps of AdamW: what is near zero may move the other way, by the learning rate.
    for name, weight in expected["state_dict"].items():
        torch.testing.assert_close(fast["state_dict"][name], weight, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(("first", "second"), [(ON, []), ([], ON)])
def test_a_run_goes_on_with_and_without(dataset, tmp_path, first, second):
    train(dataset, tmp_path, 2, *first)
    last = train(dataset, tmp_path, 4, "--resume", *second)
    assert last["global_step"] == 4


def test_a_checkpoint_loads_without(dataset, tmp_path, compiled):
    train(dataset, tmp_path, 2, "--model.compile", "true")
    assert compiled == [False]
    segmenter = load_segmenter(tmp_path / "checkpoints" / "last.ckpt")
    assert segmenter.hparams["compile"] is True
    assert segmenter.network._compiled_call_impl is None
    assert len(compiled) == 1
    assert segmenter(torch.rand(1, 3, 64, 64)).shape == (1, len(segmenter.class_names), 64, 64)


def test_a_checkpoint_of_before_loads(plain, tmp_path):
    checkpoint, _ = plain
    arguments = checkpoint[Segmenter.CHECKPOINT_HYPER_PARAMS_KEY]
    del arguments["optimize"], arguments["compile"], arguments["fold"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    assert load_segmenter(tmp_path / "old.ckpt").hparams["optimize"] is False


@pytest.mark.parametrize(
    ("options", "times"), [(["--model.channels_last", "true"], 0), ([], 1)], ids=["said", "not"]
)
def test_the_memory_format_is_measured_unless_it_is_said(
    dataset, tmp_path, monkeypatch, options, times
):
    """Channels last, in either case; of the crop and a batch of two, which is enough on a CPU."""
    measured = []

    def measure(networks, formats, images, *, training, dtype):
        measured.append((tuple(images.shape), training, dtype))
        return {pair: 1.0 + (pair[1] == "contiguous") for pair in product(networks, formats)}

    monkeypatch.setattr(passes, "measure_steps", measure)
    precision = ["--trainer.precision", "bf16-mixed"]
    last = train(dataset, tmp_path, 1, *ON, *precision, *options)
    assert measured == times * [((2, 3, 64, 64), True, torch.bfloat16)]
    weights = last["state_dict"]["network.encoder.s1.b1.conv2.conv.weight"]
    assert weights.is_contiguous(memory_format=torch.channels_last)


def test_the_format_of_the_first_process_is_taken(dataset, tmp_path, monkeypatch):
    """DDP refuses different ones. Here the first process would be another one."""

    def measure(networks, formats, *_, **__):
        return {pair: 1.0 + (pair[1] == "contiguous") for pair in product(networks, formats)}

    monkeypatch.setattr(passes, "measure_steps", measure)

    def broadcast(self, text, src=0):
        return "contiguous" if text == "channels_last" else text

    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", broadcast)
    weights = train(dataset, tmp_path, 1, *ON)["state_dict"]
    weight = weights["network.encoder.s1.b1.conv2.conv.weight"]
    assert weight.is_contiguous()
    assert not weight.is_contiguous(memory_format=torch.channels_last)
