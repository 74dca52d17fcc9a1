"""RegNets next to EfficientNets and ResNets of about the same multiply-adds, as backbones.

    python -m benchmarks.families --output benchmarks/results/families_cpu
    python -m benchmarks.families --device cuda --dtype bf16 --batch 8 --sizes 224 512 800x1344

All are timm's `features_only`, C2 to C5, with random weights, in evaluation mode and channels last.
Networks of a group take turns on the same images: compare within a group. It prints a table for
each size and writes PATH.json, with every single time, and PATH.png.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import DTYPES
from benchmarks.extractors import timms
from benchmarks.machine import conditions
from regnet_backbones.cli.run import command_parser, parse_size
from regnet_backbones.files import write_whole
from regnet_backbones.measure.memory import peak_bytes
from regnet_backbones.measure.timing import interleaved_times
from regnet_backbones.runs.results import write_json

# Of about the same multiply-adds at 224, the RegNets first.
GROUPS = (
    ("regnety_004", "regnetx_004", "efficientnet_b0"),
    ("regnety_006", "regnetx_006", "efficientnet_b1", "efficientnet_b2"),
    ("regnety_008", "regnetx_008", "efficientnet_b3"),
    ("regnety_016", "regnetx_016", "efficientnet_b4"),
    ("regnety_040", "regnetx_040", "resnet50"),
    ("regnety_080", "regnetx_080", "resnet101"),
)
COLOURS = {
    "regnety": "#1f6fb2",
    "regnetx": "#7fb3d9",
    "efficientnet": "#e0803a",
    "resnet": "#6b7680",
}


@dataclass(frozen=True)
class Row:
    """What was measured of a network at a size.

    Attributes:
        name: timm's.
        height, width: of the images.
        flops: multiply-adds of one image.
        activations: values that its convolutions put out, of one image.
        params: of C2 to C5, without a classifier.
        peak_mib: that a forward pass allocates at its peak.
        seconds: of each run.
    """

    name: str
    height: int
    width: int
    flops: int
    activations: int
    params: int
    peak_mib: float
    seconds: tuple[float, ...]

    @property
    def milliseconds(self) -> float:
        """Median of the runs."""
        return 1000 * statistics.median(self.seconds)


def build(name: str) -> nn.Module:
    """Build timm's extractor of C2 to C5, for inference."""
    return timms(name).eval().requires_grad_(False)


def multiply_adds(network: nn.Module, size: tuple[int, int] = (224, 224)) -> int:
    """Count those of an image, by torch; images are made on torch's default device."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *size))
    return counter.get_total_flops() // 2


def complexity(name: str, size: tuple[int, int]) -> tuple[int, int, int]:
    """Count multiply-adds and outputs of the convolutions for one image, and parameters."""
    outputs = []
    with torch.device("meta"):
        network = build(name)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda *call: outputs.append(call[-1].numel()))
        flops = multiply_adds(network, size)
    return flops, sum(outputs), sum(p.numel() for p in network.parameters())


def measure(group: Sequence[str], size: tuple[int, int], args: argparse.Namespace) -> list[Row]:
    """Measure the networks of a group in turns."""
    layout = {"memory_format": torch.channels_last}
    kind = {"device": args.device, "dtype": DTYPES[args.dtype]}
    images = torch.randn(args.batch, 3, *size, **kind).to(**layout)
    networks = {name: build(name).to(**kind).to(**layout) for name in group}
    calls = {name: (lambda network=network: network(images)) for name, network in networks.items()}
    with torch.inference_mode():
        times = interleaved_times(calls, runs=args.runs, device=args.device)
        peaks = {name: peak_bytes(call, device=args.device) for name, call in calls.items()}
    return [
        Row(name, *size, *complexity(name, size), peaks[name] / 2**20, times[name])
        for name in group
    ]


def table(groups: Sequence[Sequence[Row]]) -> str:
    """Return the rows of a size as Markdown; ratios are to the first of each group."""
    head = ["network", "multiply-adds (G)", "activations (M)", "params (M)", "peak (MiB)", "ms"]
    lines = [
        [
            row.name,
            f"{row.flops / 1e9:.2f}",
            f"{row.activations / 1e6:.1f}",
            f"{row.params / 1e6:.1f}",
            f"{row.peak_mib:.0f}",
            f"{row.milliseconds:.1f}",
            f"{row.milliseconds / rows[0].milliseconds:.2f}",
        ]
        for rows in groups
        for row in rows
    ]
    return tabulate(lines, [*head, "ratio"], "github", disable_numparse=True)


def write_chart(path: Path, rows: Sequence[Row]) -> None:
    """Draw time over multiply-adds, a panel for each size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    sizes = list(dict.fromkeys((row.height, row.width) for row in rows))
    figure = Figure(figsize=(4 * len(sizes), 3.6), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False)[0]
    for axis, size in zip(axes, sizes, strict=True):
        here = [row for row in rows if (row.height, row.width) == size]
        for family, colour in COLOURS.items():
            some = [row for row in here if row.name.startswith(family)]
            x, y = [row.flops / 1e9 for row in some], [row.milliseconds for row in some]
            axis.plot(x, y, "o-", color=colour, label=family)
        axis.set(xscale="log", yscale="log", title=f"{size[0]}x{size[1]}")
        axis.set(xlabel="multiply-adds (G)", ylabel="ms")
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_locator(LogLocator(subs=(1, 2, 5)))
            each.set_major_formatter("{x:g}")
            each.set_minor_formatter(NullFormatter())
    axes[0].legend(["RegNetY", "RegNetX", "EfficientNet", "ResNet"], fontsize=8)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all groups at all sizes; return 0."""
    parser = command_parser("python -m benchmarks.families", __doc__)
    parser.add_argument("--sizes", nargs="+", default=["224", "512", "800x1344"])
    parser.add_argument("--groups", nargs="+", type=int, default=range(len(GROUPS)))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.png")
    args = parser.parse_args(argv)
    rows = []
    for size in map(parse_size, args.sizes):
        groups = [measure(GROUPS[number], size, args) for number in args.groups]
        print(f"\n{size[0]}x{size[1]}, batch {args.batch}, {args.dtype}, {args.device}\n")
        print(table(groups), flush=True)
        rows += [row for group in groups for row in group]
    if args.output:
        about = {**conditions(args.device), "batch": args.batch, "dtype": args.dtype}
        content = about | {"rows": [asdict(row) for row in rows]}
        write_json(args.output.with_suffix(".json"), content)
        write_chart(args.output.with_suffix(".png"), rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
