"""Time and memory of networks, all under the same conditions."""

import gc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from statistics import median
from typing import Literal

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design.law import RegNetDesign, positive_integer
from regnet_backbones.design.searching import Measurement
from regnet_backbones.errors import UserError
from regnet_backbones.measure.memory import is_out_of_memory, peak_bytes
from regnet_backbones.measure.timing import interleaved_times
from regnet_backbones.optimize import MemoryFormat, optimize

MIB = 2**20

# Of detectron2's feature pyramids (`MODEL.FPN.OUT_CHANNELS`).
FPN_CHANNELS = 256

# What timm starts at zero, the scale of a block's last norm, is given this: zeros would fold into
# convolutions of zeros, for which a GPU needs less power, and so keeps a higher clock, than for
# trained weights. Maps stay finite in float16.
SCALE_OF_LAST_NORMS = 0.2

Network = RegNetDesign | str
Call = Callable[[], None]


@dataclass
class LatencyMeter:
    """Measures networks under one set of conditions, each as `optimize` makes it.

    Args:
        image_size: height and width of the images.
        batch_size: images of a call.
        fpn: put a feature pyramid of 256 channels on C2 to C5.
        device: "cpu" or "cuda".
        dtype: torch.bfloat16 or torch.float16 casts weights; the maps of a feature pyramid are
            float32 all the same, which is what a detector's heads are given.
        runs: forward passes that count.
        reference: a network that takes turns with each one that is measured. Latencies are then
            its first latency times the median ratio to it, which a slow minute does not change.

    Attributes:
        memory_format: the faster one for the first network, used for all.

    Raises:
        ValueError: the GPU is missing.
    """

    _: KW_ONLY
    image_size: tuple[int, int] = (512, 512)
    batch_size: int = 1
    fpn: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: torch.dtype | None = None
    runs: int = 10
    reference: Network | None = None
    memory_format: MemoryFormat = field(default="auto", init=False)
    _reference: Call | None = field(default=None, init=False, repr=False)
    _reference_seconds: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise for conditions under which nothing can be measured."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda' needs a GPU, and torch found none; use device='cpu'")
        positive_integer("runs", self.runs)

    def measure(self, network: Network) -> Measurement:
        """Return milliseconds of a forward pass, and MiB at its peak.

        Args:
            network: a design, or a name of `regnet_backbones.zoo.names()`.

        Raises:
            ValueError: the network cannot be built.
            MemoryError: it needs more memory than there is, on a GPU too.
        """
        try:
            return self._measure(network)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            size = f"batch size {self.batch_size}, {self.image_size[0]}x{self.image_size[1]}"
            text = f"out of memory on '{self.device}' at {size}"
            raise MemoryError(f"{text}; use smaller networks, images or batches") from error
        finally:
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def _measure(self, network: Network) -> Measurement:
        """Build a network and measure it, in turns with the reference if there is one."""
        if self.reference is not None and self._reference is None:
            self._reference = self._call(self.reference)
        call = self._call(network)
        calls = {"network": call} | ({"reference": self._reference} if self._reference else {})
        times = interleaved_times(calls, runs=self.runs, device=self.device)
        seconds = median(times["network"])
        if self._reference:
            self._reference_seconds = self._reference_seconds or median(times["reference"])
            pairs = zip(times["network"], times["reference"], strict=True)
            seconds = median(mine / theirs for mine, theirs in pairs) * self._reference_seconds
        return Measurement(seconds * 1000, peak_bytes(call, device=self.device) / MIB)

    def _call(self, network: Network) -> Call:
        """Return a forward pass of the optimized network."""
        size = {"image_size": self.image_size, "batch_size": self.batch_size}
        model = build(network, fpn=self.fpn).to(self.device)
        images = torch.randn(self.batch_size, 3, *self.image_size, device=self.device)
        options = {"dtype": self.dtype, "memory_format": self.memory_format}
        model, report = optimize(model, **options, **size)
        self.memory_format = report.memory_format

        def call() -> None:
            with torch.inference_mode():
                model(images)

        return call


def build(network: Network, *, fpn: bool) -> nn.Module:
    """Return a backbone with random weights, or a feature pyramid on it."""
    backbone = RegNetFeatures(network)
    for name, parameter in backbone.named_parameters():
        if name.endswith("weight") and not parameter.any():
            nn.init.constant_(parameter, SCALE_OF_LAST_NORMS)
    return FeaturePyramid(backbone) if fpn else backbone


class FeaturePyramid(nn.Module):
    """A backbone with torchvision's feature pyramid, whose layers are those of detectron2's FPN."""

    def __init__(self, bottom_up: RegNetFeatures):
        super().__init__()
        self.bottom_up = bottom_up
        self.pyramid = FeaturePyramidNetwork(list(bottom_up.channels.values()), FPN_CHANNELS)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return P2 to P5 of images (N, 3, H, W): (N, 256, ceil(H / stride), ceil(W / stride))."""
        maps = self.bottom_up(images)
        names = (f"p{level}" for level in self.bottom_up.out_levels)
        return self.pyramid(OrderedDict(zip(names, maps, strict=True)))
