"""What the README does, with the types that it gives; `make lint` checks it."""

from collections.abc import Mapping
from pathlib import Path
from typing import assert_type

import torch

import regnet_backbones
from regnet_backbones import (
    RegNetDesign,
    RegNetFeatures,
    complexity,
    config_path,
    load,
    register_encoder,
    weights,
    zoo,
)
from regnet_backbones.export import Checked, export_onnx
from regnet_backbones.optimize import Report, optimize
from regnet_backbones.runs.predictions import Result

backbone = RegNetFeatures("regnety_032", norm="FrozenBN", freeze_at=2)
assert_type(backbone(torch.randn(1, 3, 512, 512)), tuple[torch.Tensor, ...])
assert_type(backbone.channels, dict[int, int])
assert_type(backbone.design, RegNetDesign | None)

design = RegNetDesign(w_0=48, w_a=24.0, w_m=2.2, depth=16, group_width=16, se_ratio=0.25)
cost = complexity(design, image_size=(800, 1333), num_classes=None)
assert_type(cost.flops, int)
assert_type(cost.parts, Mapping[str, regnet_backbones.Complexity])
mine = RegNetFeatures(design, in_channels=4, output_stride=16)

assert_type(zoo.names(), tuple[str, ...])
assert_type(zoo.get("regnety_032"), zoo.Variant)
assert_type(zoo.get("regnety_032").weights["ra_in1k"], zoo.Weights)

report = weights.load(backbone, Path("weights.safetensors"))
assert_type(report, weights.Report)
renamed = weights.convert(backbone.state_dict(), source="timm", target="pycls")
assert_type(renamed, dict[str, torch.Tensor])

faster, done = optimize(backbone, image_size=(512, 512), dtype=torch.bfloat16)
assert_type(faster, RegNetFeatures)
assert_type(done, Report)
assert_type(export_onnx(backbone, "backbone.onnx"), Checked)

model = load("output/demo", engine="onnxruntime")
assert_type(model.predict("photo.jpg"), Result)
assert_type(model.predict(["photo.jpg", "other.jpg"], batch_size=2), list[Result])

register_encoder("mine", design)
assert_type(config_path("detectron2/Base-RegNet-FPN.yaml"), Path)
