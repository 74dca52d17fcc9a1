"""Whether weights are those of a network: what is missing, unknown, ill-shaped or not finite."""

from collections.abc import Mapping

import torch

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign
from regnet_backbones.weights.dialects import listing


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


def check_finite(state: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError where weights that are about to be loaded are NaN or infinite."""
    broken = [name for name, value in state.items() if not _is_finite(value)]
    if broken:
        raise ValueError(
            f"the weights hold NaN or infinite values, nothing was loaded; in {len(broken)}: "
            f"{listing(broken)}. The training that wrote them diverged: take an earlier checkpoint"
        )


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


def _is_finite(value: torch.Tensor) -> bool:
    """Tell whether no value is NaN or infinite; a tensor without data passes."""
    return value.is_meta or not value.is_floating_point() or bool(torch.isfinite(value).all())
