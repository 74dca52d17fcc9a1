"""Time and memory of networks, all under the same conditions."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from statistics import median
from typing import Literal

import torch

from regnet_backbones.errors import UserError
from regnet_backbones.measure.memory import is_out_of_memory, peak_bytes
from regnet_backbones.measure.networks import Network, build
from regnet_backbones.measure.timing import interleaved_times
from regnet_backbones.optimize import MemoryFormat, optimize
from regnet_backbones.optimize.layout import FORMATS
from regnet_backbones.optimize.precision import check_dtype
from regnet_backbones.optimize.trunk import example_images

MIB = 2**20

# torch takes further networks of one class as they are (`torch._dynamo.config.recompile_limit`).
MAX_COMPILED = 8


@dataclass(frozen=True)
class Measurement:
    """What was measured of a network.

    Attributes:
        latency_ms: median of a forward pass.
        memory_mib: peak of a forward pass, above weights and images (see `memory.peak_bytes`).
    """

    latency_ms: float
    memory_mib: float


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
        memory_format: "contiguous", "channels_last" or "auto". `measure` then keeps the one that
            was faster for its first network: trying both takes longer than all the rest, and on a
            CPU the same one was faster for nearly all of a hundred random designs. `compare` tries
            both for each network.
        runs: forward passes that count.
        warmup: forward passes before those.
        reference: a network that takes turns with each one that is measured. Latencies are then
            what the reference took, times the median ratio to it: a machine that is slower from
            minute to minute, or a throttled GPU, does not choose between networks. Not with
            `compile`.

    Attributes:
        chosen_format: what "auto" has led `measure` to, None before its first network.

    Raises:
        ValueError: an option is out of its range, needs a GPU that is not there, or is a pass where
            there shall be none.
    """

    _: KW_ONLY
    image_size: tuple[int, int] = (512, 512)
    batch_size: int = 1
    fpn: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    passes: bool = True
    dtype: torch.dtype | None = None
    compile: bool = False
    memory_format: MemoryFormat = "auto"
    runs: int = 10
    warmup: int = 2
    reference: Network | None = None
    chosen_format: MemoryFormat | None = field(default=None, init=False)
    _reference: Callable[[], None] | None = field(default=None, init=False, repr=False)
    _reference_seconds: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise for conditions under which nothing can be measured."""
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"device must be 'cpu' or 'cuda', got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda': torch sees no GPU here; use device='cpu'")
        if self.memory_format not in ("auto", *FORMATS):
            known = ", ".join(("auto", *FORMATS))
            raise UserError(f"memory_format must be one of {known}, got {self.memory_format!r}")
        least = {"batch_size": 1, "runs": 1, "warmup": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise UserError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        is_pair = isinstance(self.image_size, tuple | list) and len(self.image_size) == 2
        if not is_pair or min(self.image_size) < 1:
            raise UserError(f"image_size must be (height, width), got {self.image_size}")
        check_dtype(self.dtype)
        if self.compile and self.reference is not None:
            raise UserError(
                "a reference would be compiled again for each network; leave it out with "
                "compile=True, and compare the best networks by `confirm`"
            )
        if not self.passes and (self.dtype or self.compile or self.memory_format != "auto"):
            raise UserError(
                "dtype, compile and memory_format are passes; leave them as they are with "
                "passes=False, or set passes=True"
            )

    def measure(self, network: Network) -> Measurement:
        """Measure one network, and give back what memory it took.

        With a reference, that is measured when it is needed first, and stays in memory.

        Args:
            network: a design, or a name of `regnet_backbones.zoo.names()`.

        Returns:
            Milliseconds of a forward pass, and MiB at its peak.

        Raises:
            ValueError: it is no network that can be built.
            MemoryError: it needs more memory than there is, on a GPU too.
        """
        with self._tidied():
            return self._measure(network)

    def compare(
        self, networks: Mapping[str, Network], *, runs: int | None = None
    ) -> dict[str, tuple[float, ...]]:
        """Time networks in turns, so that a slow minute of the machine slows all of them.

        Args:
            networks: by name; all are in memory at the same time.
            runs: rounds, None for the meter's.

        Returns:
            Seconds of each forward pass, by name; those of one place were taken in one round.

        Raises:
            ValueError: one of them is no network that can be built, there are no runs, or more
                networks than torch compiles.
            MemoryError: they need more memory than there is, on a GPU too.
        """
        if self.compile and len(networks) > MAX_COMPILED:
            raise UserError(
                f"compile=True compares up to {MAX_COMPILED} networks, got {len(networks)}; "
                "compare fewer, or set compile=False"
            )
        with self._tidied():
            return self._compare(networks, runs=self.runs if runs is None else runs)

    def _measure(self, network: Network) -> Measurement:
        """Build a network and measure it."""
        if self.reference is not None and self._reference is None:
            self._reference = self._call_in_one_format(self.reference)
            (times,) = self._times({"reference": self._reference}, runs=self.runs).values()
            self._reference_seconds = median(times)
        call = self._call_in_one_format(network)
        seconds = self._seconds(call)
        peak = peak_bytes(call, device=self.device)
        return Measurement(seconds * 1000, peak / MIB)

    def _seconds(self, call: Callable[[], None]) -> float:
        """Time a forward pass, beside the reference if there is one."""
        if self._reference is None:
            (seconds,) = self._times({"network": call}, runs=self.runs).values()
            return median(seconds)
        times = self._times({"reference": self._reference, "network": call}, runs=self.runs)
        pairs = zip(times["network"], times["reference"], strict=True)
        return median(mine / other for mine, other in pairs) * self._reference_seconds

    def _call_in_one_format(self, network: Network) -> Callable[[], None]:
        """Return a forward pass in the memory format of the first network."""
        call, memory_format = self._call(network, self.chosen_format or self.memory_format)
        self.chosen_format = self.chosen_format or memory_format
        return call

    def _compare(
        self, networks: Mapping[str, Network], *, runs: int
    ) -> dict[str, tuple[float, ...]]:
        """Build networks and time them in turns."""
        calls = {
            name: self._call(network, self.memory_format)[0] for name, network in networks.items()
        }
        return self._times(calls, runs=runs)

    def _times(
        self, calls: Mapping[str, Callable[[], None]], *, runs: int
    ) -> dict[str, tuple[float, ...]]:
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
        """Say the same wherever memory ends, and give back what networks have taken.

        They must be out of reach by then, so what is inside is a call of a method.
        """
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
