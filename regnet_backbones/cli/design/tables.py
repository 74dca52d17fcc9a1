"""Designs and results as text tables."""

from collections.abc import Mapping, Sequence

from regnet_backbones.design.anynet import AnyNetDesign, Design
from regnet_backbones.design.cost import Complexity, complexity
from regnet_backbones.design.law import STRIDE, RegNetDesign
from regnet_backbones.design.rules import Rule
from regnet_backbones.design.sampling import Candidate

STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: float) -> str:
    """Return a number with three digits and a unit: 3.20G, 19.4M."""
    for size, unit in STEPS:
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def stage_table(design: Design, image_size: int | tuple[int, int], num_classes: int | None) -> str:
    """Return the table of stem, stages, head and all, with the shares of each."""
    cost = complexity(design, image_size, num_classes)
    rows: list[Sequence[object]] = [("stem", design.stem_width, "", "", "", STRIDE)]
    rows += [
        (
            f"s{i}",
            stage.width,
            stage.depth,
            stage.bottleneck_width // stage.group_width,
            stage.group_width,
            STRIDE ** (i + 1),
        )
        for i, stage in enumerate(design.stages, start=1)
    ]
    rows = [(*row, *cost_columns(cost.parts[row[0]])) for row in rows]
    if num_classes is not None:
        width = design.head_width or ""
        rows.append(("head", width, "", "", "", "", *cost_columns(cost.parts["head"])))
    depth = sum(stage.depth for stage in design.stages)
    rows.append(("all", "", depth, "", "", "", *cost_columns(cost)))
    headers = ("", "width", "depth", "groups", "group width", "stride")
    return table((*headers, "multiply-adds", "params", "activations"), rows)


def rule_table(rules: Sequence[Rule]) -> str:
    """Return the table of the paper's findings, and whether a design follows them."""
    rows = [
        ("yes" if rule.holds else "NO", rule.name, rule.found, rule.wanted, rule.source)
        for rule in rules
    ]
    return table(("holds", "rule", "found", "wanted", "source"), rows, numbers=False)


def candidate_table(candidates: Sequence[tuple[int, Candidate]]) -> str:
    """Return the table of designs with their numbers in results."""
    measured = any(candidate.latency_ms is not None for _, candidate in candidates)
    rows = []
    for index, candidate in candidates:
        cost = candidate.cost
        row = [index, describe(candidate.design), *cost_columns(cost)]
        if measured:
            row += [f"{candidate.latency_ms:.2f}", f"{candidate.memory_mib:.0f}"]
        rows.append(row)
    headers = ["row", "design", "multiply-adds", "params", "activations"]
    return table([*headers, *(["ms", "MiB"] if measured else [])], rows)


def rejection_table(rejections: Mapping[str, int], drawn: int) -> str:
    """Return the table of why draws were rejected."""
    rows = [
        (reason, count, f"{count / drawn:.2%}")
        for reason, count in sorted(rejections.items(), key=lambda item: -item[1])
    ]
    return table(("rejected because", "draws", "share"), rows)


def describe(design: Design) -> str:
    """Return the numbers of a design, and its stages, in one line."""
    stages = ", ".join(f"{stage.width}x{stage.depth}" for stage in design.stages)
    if isinstance(design, AnyNetDesign):
        groups = "/".join(str(stage.group_width) for stage in design.stages)
        return f"AnyNet {stages}, group widths {groups}"
    return f"{numbers(design)}: {stages}"


def numbers(design: RegNetDesign) -> str:
    """Return the numbers of a RegNet in one line."""
    words = [
        f"w_0 {design.w_0}",
        f"w_a {design.w_a:g}",
        f"w_m {design.w_m:g}",
        f"depth {design.depth}",
        f"group width {design.group_width}",
    ]
    if design.bottleneck_multiplier != 1:
        words.append(f"bottleneck {design.bottleneck_multiplier:g}")
    if design.se_ratio:
        words.append(f"SE {design.se_ratio:g}")
    return ", ".join(words)


def cost_columns(cost: Complexity) -> tuple[str, str, str]:
    """Return the three costs."""
    return short(cost.flops), short(cost.params), short(cost.activations)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: bool = True) -> str:
    """Return a table; with `numbers` all columns of numbers and units stand to the right."""
    from tabulate import tabulate

    right = [numbers and _is_number(rows, column) for column in range(len(headers))]
    return tabulate(
        rows,
        headers=headers,
        disable_numparse=True,
        colalign=["right" if each else "left" for each in right] if rows else None,
    )


def _is_number(rows: Sequence[Sequence[object]], column: int) -> bool:
    """Tell whether a column holds numbers with or without a unit."""
    return all(str(row[column])[:1].isdigit() for row in rows if row[column] != "")
