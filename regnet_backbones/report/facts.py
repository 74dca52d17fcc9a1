"""What is said of a network, its speed, and the machine, in the words of the page."""

from collections.abc import Iterable, Mapping
from importlib import import_module

import torch
from torch import nn

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign, complexity
from regnet_backbones.measure.machine import machine
from regnet_backbones.runs.results import VERSIONED
from regnet_backbones.runs.trained import Kind

SIDE = 224  # in pixels, at which the multiply-adds of a backbone are counted

Facts = tuple[tuple[str, str], ...]


def regnet_facts(network: str | RegNetDesign) -> Facts:
    """Say which RegNet a backbone is, and what it costs without a classifier.

    Args:
        network: a name of the zoo, or a design of one's own.
    """
    design = zoo.get(network).design if isinstance(network, str) else network
    name = network if isinstance(network, str) else "RegNet by numbers"
    cost = complexity(design, SIDE, num_classes=None)
    numbers = (
        f"w_0 {design.w_0:g}, w_a {design.w_a:g}, w_m {design.w_m:g}, depth {design.depth}, "
        f"group width {design.group_width}"
    )
    return (
        ("backbone", f"{name} ({numbers})"),
        (
            "its cost",
            f"{_short(cost.flops)} multiply-adds at {SIDE}×{SIDE}, "
            f"{_short(cost.params)} parameters",
        ),
    )


def model_facts(model: nn.Module) -> Facts:
    """Say how large a whole model is."""
    return (("whole model", f"{_short(sum(p.numel() for p in model.parameters()))} parameters"),)


def overridden(opts: Iterable[object]) -> Facts:
    """Say what is not as in the training, given as keys and values in turn."""
    text = " ".join(map(str, opts))
    return (("changed for this page", text),) if text else ()


def training_speed(seconds: float | None, batch: int, source: str) -> Facts:
    """Say how fast a training was.

    Args:
        seconds: median of an iteration, None for none.
        batch: images of an iteration, those of all processes together.
        source: where the time is from.
    """
    if not seconds:
        return ()
    return (("training", f"{batch / seconds:.1f} images per second (batch {batch}, {source})"),)


def inference_speed(milliseconds: float | None, images: int) -> Facts:
    """Say how long an image took here."""
    if milliseconds is None:
        return ()
    text = f"{milliseconds:.1f} ms an image (median of {images}, one at a time, files read before)"
    return (("inference", text),)


def machine_facts(device: str, kind: Kind) -> Facts:
    """Say what the inference was timed on, and with which versions."""
    kind_of_device = torch.device(device).type
    found = machine(kind_of_device)
    threads = torch.get_num_threads()
    where = f"{found['cpu']}, {threads} thread{'s' if threads > 1 else ''}"
    if kind_of_device == "cuda":
        where = f"{found['gpu']}, {found['cpu']}"
    versions: Mapping[str, str] = {
        name: import_module(name).__version__ for name in VERSIONED[kind]
    }
    return (
        ("machine of this report", where),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    )


def _short(number: int) -> str:
    """Format a count with three digits."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)
