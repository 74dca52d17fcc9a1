"""Whether weights are those of a network: what is missing, unknown, ill-shaped or unusable."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import nn

from regnet_backbones import zoo
from regnet_backbones.errors import UserError
from regnet_backbones.weights.entries import as_tensors, listing


def compare(
    given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], unknown: list[str]
) -> str:
    """Count and list what is missing, unknown and of another shape; empty where nothing is."""
    missing = [n for n in own if n not in given and not is_counter(n)]
    ill_shaped = [
        f"{n} {tuple(given[n].shape)} for {tuple(own[n].shape)}"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    kinds = {"missing": missing, "unknown": unknown, "of another shape": ill_shaped}
    return "; ".join(f"{len(n)} {kind}: {listing(n)}" for kind, n in kinds.items() if n)


def is_counter(name: str) -> bool:
    """Tell whether an entry counts batches, which says nothing of the network."""
    return name.endswith("num_batches_tracked")


def cast(
    given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return weights as a model gets them, which has entries with their names and shapes.

    Raises:
        ValueError: weights are sparse, quantized or without data, are whole numbers, truth values
            or complex where the model has others, are NaN or infinite once they are converted, or
            are negative variances.
    """
    broken: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in given.items():
        problem = _why_not(name, value, own[name])
        if problem:
            broken[problem].append(name)
    if broken:
        listed = (f"{problem} in {len(n)}: {listing(n)}" for problem, n in broken.items())
        raise UserError(f"the weights hold {'; '.join(listed)}. Nothing was loaded")
    return {name: value.to(own[name].dtype) for name, value in given.items()}


def load_all(model: nn.Module, state: object, where: str) -> None:
    """Load a state dict that must be the model's own, all of it.

    Raises:
        ValueError: it is something else, or entries are missing, unknown, of another shape or
            unusable. The model is not changed, and the message names `where`.
    """
    given = as_tensors(state if isinstance(state, Mapping) else {}, where)
    own = model.state_dict()
    problems = compare(given, own, [name for name in given if name not in own])
    if problems:
        raise UserError(f"{where} does not match the model: {problems}. Nothing was loaded")
    model.load_state_dict(cast(given, own), strict=False)  # old files have no batch counters


def describe(state: Mapping[str, torch.Tensor]) -> str:
    """Say which network a state dict with timm's names is of, as far as it can be seen."""
    stages = []
    for stage in range(1, 5):
        blocks = {name.split(".")[1] for name in state if name.startswith(f"s{stage}.b")}
        ends = [f"s{stage}.b1.conv3.conv.weight", f"s{stage}.b1.conv3.weight"]
        widths = [state[end].shape[0] for end in ends if end in state]
        if blocks and widths:
            stages.append((len(blocks), widths[0]))
    if not stages:
        return "another kind of network"
    excited = any(".se." in name for name in state)
    designs = ((name, zoo.get(name).design) for name in zoo.names())
    names = [
        name
        for name, design in designs
        if design is not None and bool(design.se_ratio) == excited
        if [(s.depth, s.width) for s in design.stages][: len(stages)] == stages
    ]
    depths, widths = (", ".join(map(str, column)) for column in zip(*stages, strict=True))
    return (
        f"a RegNet of {depths} blocks, {widths} wide, {'with' if excited else 'without'} "
        f"squeeze-and-excitation ({' or '.join(names) if names else 'none of the zoo'})"
    )


def _why_not(name: str, value: torch.Tensor, own: torch.Tensor) -> str | None:
    """Say why a value cannot become that of a model; None where it can."""
    if value.is_meta:
        return None if own.is_meta else "tensors without data"
    if value.layout is not torch.strided or value.is_quantized:
        return "sparse or quantized tensors"
    kinds = (_kind(value), _kind(own))
    # A running average makes fractions of counters, too.
    if kinds[0] != kinds[1] and kinds != ("float", "int"):
        return f"{value.dtype} for {own.dtype}"
    try:
        seen = value if kinds[1] == "int" else value.to(own.dtype)
        if not torch.isfinite(seen).all():
            return f"NaN or infinite values of {own.dtype} (take an earlier checkpoint)"
        is_negative = name.endswith("running_var") and bool((seen < 0).any())
    except (NotImplementedError, RuntimeError):  # torch has kinds that it can hardly compute with
        return f"{value.dtype}, which cannot be converted to {own.dtype}"
    return "negative variances" if is_negative else None


def _kind(value: torch.Tensor) -> str:
    """Name the kind of numbers of a tensor."""
    if value.is_floating_point():
        return "float"
    return "complex" if value.is_complex() else "bool" if value.dtype is torch.bool else "int"
