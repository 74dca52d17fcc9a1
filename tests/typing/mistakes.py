"""Mistakes that types find: an ignored error that mypy does not find is one (`make lint`)."""

import torch

from regnet_backbones import RegNetDesign, RegNetFeatures, complexity, register_encoder, zoo
from regnet_backbones.optimize import optimize

RegNetFeatures("regnety_032", norm="BatchNorm")  # type: ignore[arg-type]
RegNetFeatures("regnety_032", output_stride=4)  # type: ignore[arg-type]
RegNetFeatures("regnety_032", frozen=True)  # type: ignore[call-arg]
RegNetFeatures("regnety_032")(torch.zeros(1, 3, 64, 64)).shape  # type: ignore[attr-defined]
RegNetDesign(48, 24.0, 2.2, 16)  # type: ignore[call-arg]
complexity("regnety_032")  # type: ignore[arg-type]
register_encoder("mine", 32)  # type: ignore[arg-type]
zoo.get("regnety_032").licence  # type: ignore[attr-defined]
optimize(RegNetFeatures("regnety_032"), memory_format="nhwc")  # type: ignore[arg-type]
