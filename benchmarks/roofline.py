"""What a device can do at best, measured, and how far from that an extractor is.

No extractor is faster than its multiply-adds at the rate that the cores reach at best, nor than
reading and writing its parameters and activations once at the speed of a large copy. On a CPU the
rate in float32 is that of a loop of fused multiply-adds; in bfloat16 and on a GPU, which have other
units for it, that of a large matrix product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.cases import DTYPES, Case, Precision
from benchmarks.fma import fma_call
from benchmarks.results import Row
from regnet_backbones.errors import UserError
from regnet_backbones.measure.timing import interleaved_times

# By kind of device: side of the matrices, bytes of the copy, both beyond what caches hold.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}

RUNS = 10


@dataclass(frozen=True)
class Rates:
    """What a device reaches.

    Attributes:
        multiply_adds: per second.
        bandwidth: bytes read and written by a copy, per second.
        by: what did the multiply-adds.
    """

    multiply_adds: float
    bandwidth: float
    by: str = "a matrix product"


@dataclass(frozen=True)
class Roofline:
    """Seconds below which no call of an extractor gets.

    Attributes:
        compute: its multiply-adds at the rate of the device.
        memory: its parameters read once, its activations written and read once.
    """

    compute: float
    memory: float


def measure_rates(
    precision: Precision,
    *,
    device: str = "cpu",
    side: int | None = None,
    copy_bytes: int | None = None,
) -> Rates:
    """Measure what a device reaches in a precision, at the best of some runs.

    On a CPU with as many threads as torch has; without a C++ compiler its float32 rate is that of a
    matrix product, and `by` says why. On CUDA float32 products use TF32 where convolutions may.

    Args:
        precision: of the matrices.
        device: "cpu" or "cuda".
        side: of the square matrices; None for what suits the device.
        copy_bytes: size of the copied tensor; None for what suits the device.
    """
    multiply_adds, count, by = _multiply_adds(precision, device, side or MATRIX_SIDE[device])
    source = torch.ones(copy_bytes or COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        times = interleaved_times(
            {"product": multiply_adds, "copy": lambda: target.copy_(source)},
            runs=RUNS,
            device=device,
        )
    finally:
        matmul.allow_tf32 = before
    return Rates(
        multiply_adds=count / min(times["product"]),
        bandwidth=2 * source.numel() / min(times["copy"]),
        by=by,
    )


def _multiply_adds(
    precision: Precision, device: str, side: int
) -> tuple[Callable[[], object], int, str]:
    """Return a call that does multiply-adds as fast as the device can, their number, and how."""
    matrix = torch.randn(side, side, device=device).to(DTYPES[precision])
    why = ""
    if (precision, device) == ("fp32", "cpu"):
        try:
            return *fma_call(torch.get_num_threads()), "a loop of fused multiply-adds"
        except UserError as error:
            why = f" ({error})"
    return lambda: matrix @ matrix, side**3, f"a matrix product{why}"


def roofline_of(case: Case, precision: Precision, rates: Rates) -> Roofline | None:
    """Return the roofline of an inference by the extractor of a case.

    Returns:
        None for a training, a whole model, or a variant without a design, whose cost is not known.
    """
    cost = case.cost
    if cost is None or case.training:
        return None
    values = cost.params + 2 * case.batch * cost.activations
    return Roofline(
        compute=case.batch * cost.flops / rates.multiply_adds,
        memory=values * DTYPES[precision].itemsize / rates.bandwidth,
    )


def distances(row: Row, roofline: Roofline) -> tuple[float, float]:
    """Return how many times its compute floor and its memory floor a measured row takes."""
    return row.median / roofline.compute, row.median / roofline.memory
