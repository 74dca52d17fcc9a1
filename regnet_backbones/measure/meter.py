"""Time and memory of networks, all under the same conditions.

Whether one network is faster than another takes runs in turns (`confirm`).
"""

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from statistics import median
from typing import Literal

import numpy as np
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design.law import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.measure.memory import is_out_of_memory, peak_bytes
from regnet_backbones.measure.timing import interleaved_times
from regnet_backbones.optimize import MemoryFormat, optimize
from regnet_backbones.optimize.passes import check_dtype, example_images

MIB = 2**20

# How often `ratio_band` draws as many ratios as there are, with replacement.
RESAMPLES = 2000

# torch takes further networks of one class as they are (`torch._dynamo.config.recompile_limit`).
MAX_COMPILED = 8

# Of detectron2's feature pyramids (`MODEL.FPN.OUT_CHANNELS`).
FPN_CHANNELS = 256

# What timm starts at zero, the scale of a block's last norm, is given this: zeros would fold into
# convolutions of zeros, for which a GPU needs less power, and so keeps a higher clock, than for
# trained weights. Maps stay finite in float16.
SCALE_OF_LAST_NORMS = 0.2

Network = RegNetDesign | str
Times = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Measurement:
    """What was measured of a network.

    Attributes:
        latency_ms: median of a forward pass.
        memory_mib: peak of a forward pass, above weights and images (see `memory.peak_bytes`).
    """

    latency_ms: float
    memory_mib: float


@dataclass(frozen=True)
class RatioBand:
    """The time of a network over that of a reference: the median of paired runs, and its interval.

    Attributes:
        low: lower end of the interval.
        median: of the ratios; below 1 is faster than the reference.
        high: upper end of the interval.
    """

    low: float
    median: float
    high: float

    @property
    def faster(self) -> bool:
        """Whether the network is measurably faster: all of the interval is below 1."""
        return self.high < 1


@dataclass
class LatencyMeter:
    """Measures networks under one set of conditions.

    Args:
        image_size: height and width of the images.
        batch_size: images of a call.
        fpn: put a feature pyramid of 256 channels on C2 to C5.
        device: "cpu" or "cuda".
        passes: optimize networks; False measures them as they come, in float32.
        dtype: torch.bfloat16 or torch.float16 casts weights; the maps of a feature pyramid are
            float32 all the same, which is what a detector's heads are given.
        compile: `torch.compile`, which takes a good part of a minute for each network.
        runs: forward passes that count.
        warmup: forward passes before those.
        reference: a network that takes turns with each one that is measured. Latencies are then
            what the reference took, times the median ratio to it, so that a slow minute of the
            machine does not choose between networks. Not with `compile`.

    Attributes:
        chosen_format: the memory format that was faster for the first network of `measure`, and is
            used for all: trying both takes longer than all the rest. `confirm` tries both for each.

    Raises:
        ValueError: an option is out of its range, needs a GPU that is not there, or is a pass with
            `passes=False`.
    """

    _: KW_ONLY
    image_size: tuple[int, int] = (512, 512)
    batch_size: int = 1
    fpn: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    passes: bool = True
    dtype: torch.dtype | None = None
    compile: bool = False
    runs: int = 10
    warmup: int = 2
    reference: Network | None = None
    chosen_format: MemoryFormat = field(default="auto", init=False)
    _reference: tuple[Callable[[], None], float] | None = field(
        default=None, init=False, repr=False
    )

    def __post_init__(self) -> None:
        """Raise for conditions under which nothing can be measured."""
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"device must be 'cpu' or 'cuda', got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda': torch sees no GPU here; use device='cpu'")
        for name, value in (
            ("image_size", min(self.image_size)),
            ("batch_size", self.batch_size),
            ("runs", self.runs),
        ):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if self.compile and self.reference is not None:
            raise UserError(
                "a reference would be compiled again for each network; leave it out with "
                "compile=True, and compare the best networks by `confirm`"
            )
        if not self.passes and (self.dtype or self.compile):
            raise UserError("dtype and compile are passes; leave them out, or set passes=True")
        check_dtype(self.dtype)

    def measure(self, network: Network) -> Measurement:
        """Measure one network, and give back what memory it took.

        With a reference, that is measured when it is needed first, and stays in memory.

        Args:
            network: a design, or a name of `regnet_backbones.zoo.names()`.

        Returns:
            Milliseconds of a forward pass, and MiB at its peak.

        Raises:
            ValueError: the network cannot be built.
            MemoryError: it needs more memory than there is, on a GPU too.
        """
        with self._tidied():
            return self._measure(network)

    def _compare(self, networks: Mapping[str, Network], *, runs: int) -> Times:
        """Time networks in turns, all in memory; return seconds by name, one for each round."""
        if self.compile and len(networks) > MAX_COMPILED:
            raise UserError(
                f"compile=True compares up to {MAX_COMPILED} networks, got {len(networks)}; "
                "compare fewer, or set compile=False"
            )
        with self._tidied():
            calls = {name: self._call(each, "auto")[0] for name, each in networks.items()}
            return self._times(calls, runs)

    def _measure(self, network: Network) -> Measurement:
        """Build a network and measure it, in turns with the reference if there is one."""
        if self.reference is not None and self._reference is None:
            call, self.chosen_format = self._call(self.reference, self.chosen_format)
            self._reference = call, median(self._times({"": call}, self.runs)[""])
        call, self.chosen_format = self._call(network, self.chosen_format)
        if self._reference is None:
            seconds = median(self._times({"": call}, self.runs)[""])
        else:
            other, other_seconds = self._reference
            times = self._times({"reference": other, "network": call}, self.runs)
            pairs = zip(times["network"], times["reference"], strict=True)
            seconds = median(mine / theirs for mine, theirs in pairs) * other_seconds
        return Measurement(seconds * 1000, peak_bytes(call, device=self.device) / MIB)

    def _times(self, calls: Mapping[str, Callable[[], None]], runs: int) -> Times:
        """Time forward passes in turns."""
        return interleaved_times(calls, runs=runs, warmup=self.warmup, device=self.device)

    def _call(
        self, network: Network, memory_format: MemoryFormat
    ) -> tuple[Callable[[], None], MemoryFormat]:
        """Return a forward pass, and the memory format that it is done in."""
        model = build(network, fpn=self.fpn).to(self.device).eval().requires_grad_(False)
        shape = {"image_size": self.image_size, "batch_size": self.batch_size}
        images = example_images(model, **shape)  # before it has another dtype: images are float32
        if not self.passes:
            memory_format = "contiguous"
        else:
            model, report = optimize(
                model, dtype=self.dtype, compile=self.compile, memory_format=memory_format, **shape
            )
            memory_format = report.memory_format

        def call() -> None:
            with torch.inference_mode():
                model(images)

        return call, memory_format

    @contextmanager
    def _tidied(self) -> Iterator[None]:
        """Raise one error wherever memory ends, and free networks, which nothing may refer to."""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError(
                f"out of memory on '{self.device}' at batch size {self.batch_size} and "
                f"{self.image_size[0]}x{self.image_size[1]}; take smaller networks, images or "
                "batches"
            ) from error
        finally:
            gc.collect()
            if self.compile:
                torch.compiler.reset()  # or these networks count against MAX_COMPILED
            if self.device == "cuda":
                torch.cuda.empty_cache()


def ratio_band(
    times: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95
) -> RatioBand:
    """Return the median ratio of paired times, with its bootstrap interval (percentiles)."""
    if not times or len(times) != len(reference):
        raise UserError(
            f"ratios take as many times of both networks, got {len(times)} and {len(reference)}"
        )
    ratios = np.array(times) / np.array(reference)
    draws = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    medians = np.sort(np.median(draws, axis=1))
    outside = int((1 - confidence) / 2 * RESAMPLES)  # at either end
    return RatioBand(*map(float, (medians[outside], np.median(ratios), medians[-1 - outside])))


def confirm(
    meter: LatencyMeter,
    networks: Sequence[Network],
    reference: Network,
    *,
    runs: int = 30,
    confidence: float = 0.95,
) -> tuple[RatioBand, ...]:
    """Measure a few networks in turns with a reference, to find which are measurably faster.

    The more networks, the wider each interval: `confidence` is that of all of them together, for
    one of many is soon called faster by chance.

    Args:
        meter: with the conditions.
        networks: the best of a search; their weights are in memory at the same time.
        reference: what they are compared with.
        runs: rounds in which each is called once.
        confidence: that no interval misses its true ratio.

    Returns:
        The time of each network over the reference's.

    Raises:
        ValueError: there is no network, or one that cannot be built.
        MemoryError: they need more memory than there is, on a GPU too.
    """
    if not networks:
        raise UserError("there is no network to compare with the reference; give at least one")
    numbered = {str(number): network for number, network in enumerate(networks)}
    times = meter._compare({"reference": reference, **numbered}, runs=runs)
    each = 1 - (1 - confidence) / len(networks)
    return tuple(ratio_band(times[name], times["reference"], confidence=each) for name in numbered)


def build(network: Network, *, fpn: bool) -> nn.Module:
    """Return a backbone with random weights, or a feature pyramid on it."""
    if not isinstance(network, RegNetDesign | str):
        raise UserError(
            "latency is measured of networks that can be built, a RegNetDesign or a name of the "
            f"zoo, not of an {type(network).__name__}; search a RegNet space"
        )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
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
