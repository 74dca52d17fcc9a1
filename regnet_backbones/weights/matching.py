"""Whether weights are those of a network: what is missing, unknown, ill-shaped or unusable."""

from collections import defaultdict
from collections.abc import Mapping

import torch

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign
from regnet_backbones.weights.entries import listing


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
    given: Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype]
) -> dict[str, torch.Tensor]:
    """Return weights as a model gets them.

    Args:
        given: weights by name.
        dtypes: of the model's entries, by name; weights of other names keep their own.

    Raises:
        ValueError: weights are sparse, quantized or without data, are whole numbers, truth values
            or complex where the model has others, are NaN or infinite once they are converted, or
            are negative variances.
    """
    values: dict[str, torch.Tensor] = {}
    broken: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in given.items():
        dtype = dtypes.get(name, value.dtype)
        problem = _why_not(name, value, dtype)
        if problem:
            broken[problem].append(name)
        else:
            values[name] = value.to(dtype)
    if broken:
        listed = (f"{problem} in {len(n)}: {listing(n)}" for problem, n in broken.items())
        raise ValueError(f"the weights hold {'; '.join(listed)}. Nothing was loaded")
    return values


def dtypes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.dtype]:
    """Return the types of numbers of a state dict."""
    return {name: value.dtype for name, value in state.items()}


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
    names = [n for n in zoo.names() if _looks_like(zoo.get(n).design, stages, excited)]
    depths, widths = (", ".join(map(str, column)) for column in zip(*stages, strict=True))
    squeeze = "with" if excited else "without"
    return (
        f"a RegNet of {depths} blocks, {widths} wide, {squeeze} squeeze-and-excitation "
        f"({' or '.join(names) if names else 'none of the zoo'})"
    )


def _looks_like(design: RegNetDesign | None, stages: list[tuple[int, int]], excited: bool) -> bool:
    """Tell whether the first stages of a design are those that were seen."""
    if design is None or bool(design.se_ratio) != excited:
        return False
    return [(s.depth, s.width) for s in design.stages][: len(stages)] == stages


def _why_not(name: str, value: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Say why a value cannot become that of a model; None where it can."""
    if value.is_meta:
        return "tensors without data"
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        return "sparse, quantized or nested tensors"
    floats = value.is_floating_point()
    # A running average makes fractions of counters, too.
    fits = floats if dtype.is_floating_point else _is_whole(dtype) and (_is_whole(value) or floats)
    if not fits and value.dtype != dtype:
        return f"{value.dtype} for {dtype}"
    try:
        seen = value if _is_whole(dtype) else value.to(dtype)
        if not torch.isfinite(seen).all():
            return f"NaN or infinite values of {dtype} (take a checkpoint from before that)"
        is_negative = name.endswith("running_var") and bool((seen < 0).any())
    except (NotImplementedError, RuntimeError):  # torch has kinds that it can hardly compute with
        return f"{value.dtype}, which cannot be converted to {dtype}"
    return "negative variances" if is_negative else None


def _is_whole(of: torch.Tensor | torch.dtype) -> bool:
    """Tell whether a tensor or a type is of whole numbers."""
    dtype = of.dtype if isinstance(of, torch.Tensor) else of
    return not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)
