"""Mistakes that types find: each line says what mypy calls it."""

import torch

from regnet_backbones import RegNetDesign, RegNetFeatures, complexity, register_encoder, zoo
from regnet_backbones.optimize import optimize

RegNetFeatures("regnety_032", norm="BatchNorm")  # arg-type
RegNetFeatures("regnety_032", output_stride=4)  # arg-type
RegNetFeatures("regnety_032", frozen=True)  # call-arg
RegNetFeatures("regnety_032")(torch.zeros(1, 3, 64, 64)).shape  # attr-defined
RegNetDesign(48, 24.0, 2.2, 16)  # call-arg
complexity("regnety_032")  # arg-type
register_encoder("mine", 32)  # arg-type
zoo.get("regnety_032").licence  # attr-defined
optimize(RegNetFeatures("regnety_032"), memory_format="nhwc")  # arg-type
