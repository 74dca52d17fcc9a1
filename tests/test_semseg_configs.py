"""Every config of `tools/train_semseg.py` is read, and builds the network of its file name."""

import re

import pytest
import torch

from regnet_backbones import config_path, zoo
from regnet_backbones.semseg.network import build_network, check_statistics

ROOT = config_path("semseg")
# Parts of configs, which recipes name, are in `common`.
RECIPES = sorted(p for p in ROOT.rglob("*.yaml") if p.parent.name != "common")
PUBLISHED = [path for path in RECIPES if path.parent == ROOT]

DECODERS = {"unet": "Unet", "fpn": "FPN", "upernet": "UPerNet", "deeplabv3plus": "DeepLabV3Plus"}
OURS = {"ocrnet": "OCRNet", "unet3plus": "UNet3Plus"}
WITH_AUXILIARY_HEAD = ("UPerNet", "DeepLabV3Plus")
CLASSES = {"ade20k": 150, "cityscapes": 19, "medical": 2}
LAYOUTS = {"ade20k": "ade20k", "cityscapes": "cityscapes", "medical": "folder"}
# Steps, images a step, pixels of a crop.
SCHEDULES = {
    "ade20k_160k": (160_000, 16, 512),
    "cityscapes_80k": (80_000, 8, 768),
    "medical_20k": (20_000, 8, 320),
}
# Rate and decay; the paper of OCRNet has others for ADE20K.
RATES = {("OCRNet", "ade20k"): (0.02, 1e-4)}


def test_all_configs_are_seen():
    encoders = ("regnety_032", "regnety_040")
    names = {f"{decoder}_{encoder}_ade20k_160k" for decoder in DECODERS for encoder in encoders}
    names |= {f"deeplabv3plus_{encoder}_cityscapes_80k" for encoder in encoders}
    names |= {f"ocrnet_regnety_032_{run}" for run in ("ade20k_160k", "cityscapes_80k")}
    names |= {"unet3plus_regnety_016_medical_20k"}
    assert {path.stem for path in PUBLISHED} == names
    assert {path.stem for path in RECIPES} - names == {"unet_regnet_small_shapes"}


def read(path, parser):
    return parser.parse_args(["--config", str(path)])


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_a_recipe_is_what_its_name_says(path, segmenter_parser):
    config = read(path, segmenter_parser)
    decoder, encoder, dataset, schedule = re.fullmatch(
        r"([a-z0-9]+)_(regnet[xy]_\d+)_([a-z0-9]+)_(\d+k)", path.stem
    ).groups()
    model, data, trainer = config.model, config.data, config.trainer
    assert (model.decoder, model.encoder) == ((DECODERS | OURS)[decoder], encoder)
    assert (data.layout, config.output) == (LAYOUTS[dataset], f"output/{path.stem}")
    assert model.auxiliary_weight == (0.4 if model.decoder in WITH_AUXILIARY_HEAD else None)
    found = (trainer.max_steps, data.batch_size, data.crop_size)
    assert found == SCHEDULES[f"{dataset}_{schedule}"]
    assert trainer.max_steps % trainer.val_check_interval == 0
    rate, decay = RATES.get((model.decoder, dataset), (0.01, 5e-4))
    assert (model.optimizer, model.lr, model.weight_decay) == ("sgd", rate, decay)
    assert (model.schedule, model.power) == ("poly", 0.9)
    assert data.photometric
    assert data.scale_range == ((0.75, 1.25) if dataset == "medical" else (0.5, 2.0))
    assert model.sync_batchnorm
    check_statistics(encoder, model.encoder_weights, mean=data.mean, std=data.std)
    channels = len(data.mean)
    assert channels == (1 if dataset == "medical" else 3)
    if channels == 3:
        assert zoo.get(encoder).weights[zoo.get(encoder).default_tag].mean == tuple(data.mean)
    with torch.device("meta"):
        network = build_network(
            model.decoder,
            model.encoder,
            CLASSES[dataset],
            output_stride=model.output_stride,
            options=model.decoder_options,
            in_channels=channels,
            auxiliary_weight=model.auxiliary_weight,
        )
        side, classes = data.crop_size, CLASSES[dataset]
        images = torch.zeros(2, channels, side, side)
        assert network.eval()(images).shape == (2, classes, side, side)


def test_the_demos_two_networks_are_the_same_regnet(segmenter_parser):
    """In the detector by `MODEL.REGNET`, in the segmenter by `model.encoder`."""
    from regnet_backbones.detection.config import read_config

    regnet = read_config(
        config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
    ).MODEL.REGNET
    (path,) = set(RECIPES) - set(PUBLISHED)
    model = read(path, segmenter_parser).model
    assert model.encoder == {
        "w_0": regnet.W0,
        "w_a": regnet.WA,
        "w_m": regnet.WM,
        "depth": regnet.DEPTH,
        "group_width": regnet.GROUP_W,
    }
    assert model.encoder_weights is None
