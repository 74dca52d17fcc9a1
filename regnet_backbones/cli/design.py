"""The command `design`: look at designs, fit, sample, search, compare and scale them.

torch is imported to measure and to build only.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from regnet_backbones import zoo
from regnet_backbones.cli import design_output as out
from regnet_backbones.cli import design_search as searching
from regnet_backbones.cli.run import parse_size, subcommand
from regnet_backbones.design import (
    FORMATS,
    RegNetDesign,
    check_rules,
    complexity,
    design_of,
    fit,
    scale,
    to_format,
)
from regnet_backbones.design.fitting import FAST
from regnet_backbones.design.formats import read_results
from regnet_backbones.design.law import STRIDE, runs
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import check_output_folder, write_whole

DESCRIPTION = """\
Design your own RegNet: show one, fit, sample, search, compare and scale.

    %(prog)s show --w0 48 --wa 28 --wm 1.8 --depth 7 --group-width 16 --build
    %(prog)s search --space RegNetY --image-size 640 --latency-ms 5 --output found

Each command explains itself: %(prog)s search --help. docs/design.md walks through all of it.
"""

# Widths and depths of the stages of well-known networks; EfficientNet has seven.
# Sources: torchvision `models/resnet.py` and `models/efficientnet.py`.
RESNET_WIDTHS = (256, 512, 1024, 2048)
KNOWN: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "resnet50": (RESNET_WIDTHS, (3, 4, 6, 3)),
    "resnet101": (RESNET_WIDTHS, (3, 4, 23, 3)),
    "efficientnet_b0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
}


def design_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (add_arguments, run, summary) in SUBCOMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=f"Show {summary}.")
        add_arguments(subparser)
        if name in GIVING_DESIGNS:
            _add_output(subparser)
        subparser.set_defaults(run=run)


@subcommand(DESCRIPTION, design_arguments)
def design_command(args: argparse.Namespace) -> int:
    """Run a subcommand, after what can be checked before it; 1 if a search found nothing."""
    args.command = shlex.join(["regnet-backbones", "design", *args.argv])
    given = vars(args)
    for name in ("output", "write", "picture"):
        if given.get(name):
            check_output_folder(Path(given[name]).parent, name=f"the folder of --{name}")
    if given.get("write") and not args.format:
        raise UserError(f"--write needs --format, one of {', '.join(FORMATS)}")
    if given.get("base") and args.format != "detectron2":
        raise UserError("--base needs --format detectron2")
    if given.get("base") and not Path(args.base).is_file():
        raise MissingFileError(f"no config '{args.base}' for --base")
    if given.get("picture"):
        out.check_chart(args.picture)
    chosen = args.run(args)
    if isinstance(chosen, RegNetDesign):
        _show_output(args, chosen)
        return 0
    return chosen or 0


def _add_design(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "the network",
        "a name, all numbers, or a row of results; numbers override those of a name or a row",
    ).add_argument
    add("name", nargs="?", metavar="NAME", help="regnety_032, RegNetX-400MF, ...")
    add("--from", dest="results", metavar="JSON", help="results of sample or search")
    add("--index", type=int, metavar="N", help="row of --from (default: the best, else 0)")
    for name, kind in searching.NUMBERS.items():
        text = f"{name} of the design"
        add(searching.option(name), dest=name, type=kind, metavar="NUMBER", help=text)


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--format", choices=FORMATS, help="print the design for another project")
    add("--base", metavar="YAML", help="_BASE_ of a config for Detectron2")
    add("--write", metavar="FILE", help="write --format to a file, instead of printing it")
    add("--build", action="store_true", help="build the feature extractor and run it once")


def _chosen_design(args: argparse.Namespace) -> tuple[str, RegNetDesign]:
    """Return the network that is asked for and its name, "" where numbers were given."""
    numbers = {
        name: getattr(args, name) for name in searching.NUMBERS if getattr(args, name) is not None
    }
    if args.name and args.results:
        raise UserError(f"pass a name or --from, not both; got '{args.name}' and {args.results}")
    if args.name:
        name = "" if numbers else zoo.get(args.name).name
        return name, replace(searching.zoo_design(args.name), **numbers)
    if args.results:
        return "", replace(_row(args.results, args.index), **numbers)
    missing = [searching.option(name) for name in searching.REQUIRED if name not in numbers]
    if missing:
        raise UserError(f"pass a name, --from FILE or all numbers; missing: {', '.join(missing)}")
    return "", RegNetDesign(**numbers)


def _row(path: str, index: int | None) -> RegNetDesign:
    """Return the design of a row of results; by default the one that the search chose."""
    rows, chosen = read_results(path)
    index = chosen if index is None else index
    if index is None:
        raise UserError(f"the search in {path} has no best row; pass one with --index")
    if index not in range(len(rows)):
        raise UserError(f"--index must be 0 to {len(rows) - 1} for {path}, got {index}")
    return design_of(rows[index])


def _show_output(args: argparse.Namespace, design: RegNetDesign) -> None:
    """Print, write and build a design as the options say."""
    if args.format:
        base = args.base
        if base:  # as _BASE_ names it: relative to the folder of the new config
            base = Path(os.path.relpath(base, Path(args.write or "").parent)).as_posix()
        text = to_format(args.format, design, base=base)
        if args.write:
            write_whole(Path(args.write), lambda file: file.write(f"{text}\n".encode()))
            print(f"written to {args.write}", file=sys.stderr)
        else:
            print(f"\n{text}")
    if args.build:
        import torch

        from regnet_backbones.backbone import RegNetFeatures

        network = RegNetFeatures(design).eval()
        with torch.no_grad():
            maps = network(torch.zeros(1, 3, 64, 64))
        params = sum(parameter.numel() for parameter in network.parameters())
        shapes = ", ".join("x".join(map(str, each.shape[1:])) for each in maps)
        print(f"\nbuilt: {params:,} parameters, maps of 64x64 pixels: {shapes}")


def _add_list(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("family", nargs="*", metavar="START", help="start of names, such as regnetx_0")
    size_help = "image size of the backbone's multiply-adds (default: 800x1333)"
    add("--image-size", type=parse_size, default=(800, 1333), metavar="SIZE", help=size_help)
    add("--markdown", action="store_true", help="print a table in Markdown")


def _list(args: argparse.Namespace) -> None:
    """Print every named network, what it costs, and its default weights."""
    starts = tuple(args.family) or ("",)
    names = [name for name in zoo.names() if name.startswith(starts)]
    if not names:
        raise UserError(f"no name starts with {' or '.join(starts)}; one is {zoo.names()[0]}")
    height, width = args.image_size
    headers = (
        *("name", "in the paper", "params (M)", "multiply-adds at 224 (G)"),
        *(f"backbone at {height}x{width} (G)", "activations at 224 (M)"),
        *("top-1 (%)", "default weights", "licence"),
    )
    rows = [_variant_row(zoo.get(name), args.image_size) for name in names]
    print(out.table(headers, rows, style="github" if args.markdown else "simple"))


def _variant_row(variant: zoo.Variant, size: tuple[int, int]) -> tuple[str, ...]:
    """Return what is known of a variant; what is not, is empty."""
    costs = [""] * 4
    if variant.design is not None:
        cost, backbone = complexity(variant.design), complexity(variant.design, size, None)
        costs = [f"{cost.params / 1e6:.1f}", f"{cost.flops / 1e9:.2f}"]
        costs += [f"{backbone.flops / 1e9:.1f}", f"{cost.activations / 1e6:.1f}"]
    weights = variant.weights.get(variant.default_tag)
    top1 = "" if weights is None or weights.top1 is None else f"{weights.top1:.1f}"
    licence = "" if weights is None else weights.licence
    named = variant.name, variant.paper_name or ""
    return (*named, *costs, top1, variant.default_tag or "", licence)


def _add_show(parser: argparse.ArgumentParser) -> None:
    _add_design(parser)
    searching.add_cost(parser)
    parser.add_argument("--picture", metavar="FILE", help="draw the widths (.png, .svg)")


def _show(args: argparse.Namespace) -> RegNetDesign:
    """Print what a design is and costs, and which of the paper's findings it follows."""
    name, design = _chosen_design(args)
    (height, width), num_classes = args.image_size, args.num_classes or None
    title = f"{name}: {out.describe(design)}" if name else out.describe(design)
    print(f"{title}\n\n{_stage_table(design, (height, width), num_classes)}")
    classes = f"{num_classes} classes" if num_classes else "the backbone alone"
    print(f"at {height}x{width}, {classes}\n")
    rows = [
        ("yes" if rule.holds else "NO", rule.name, rule.found, rule.wanted, rule.source)
        for rule in check_rules(design)
    ]
    print(out.table(("holds", "rule", "found", "wanted", "source"), rows, align="left"))
    if args.picture:
        fitted = [stage.width for stage in design.stages for _ in range(stage.depth)]
        blocks = design.block_widths
        steps = {"stages, fitted to their groups": fitted, "quantized": blocks.quantized}
        out.write_chart(args.picture, out.width_figure(title, blocks.continuous, steps))
    return design


def _stage_table(design: RegNetDesign, size: tuple[int, int], num_classes: int | None) -> str:
    """Return the table of stem, stages, head and all, with the costs of each."""
    cost = complexity(design, size, num_classes)
    rows: list[Sequence[object]] = [("stem", design.stem_width, "", "", "", STRIDE)]
    for i, stage in enumerate(design.stages, start=1):
        groups = stage.bottleneck_width // stage.group_width
        shape = stage.width, stage.depth, groups, stage.group_width
        rows.append((f"s{i}", *shape, STRIDE ** (i + 1)))
    if num_classes is not None:
        rows.append(("head", design.head_width or "", "", "", "", ""))
    rows = [(*row, *out.cost_columns(cost.parts[row[0]])) for row in rows]
    rows.append(("all", "", design.depth, "", "", "", *out.cost_columns(cost)))
    headers = ("", "width", "depth", "groups", "group width", "stride", *out.COST_HEADERS)
    return out.table(headers, rows)


def _add_fit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help=f"{', '.join(KNOWN)}, or a RegNet")
    add("--widths", nargs="+", type=int, metavar="N", help="widths of stages, or of all blocks")
    add("--depths", nargs="+", type=int, metavar="N", help="depths of stages")
    stages_help = "stages to fit, or 'any' for the best fit (default: 4, to build a RegNet)"
    add("--stages", default="4", metavar="N", help=stages_help)
    add("--group-width", type=int, metavar="N", help="default: that of the RegNet, or 8")
    add("--picture", metavar="FILE", help="draw observed and fitted widths (.png, .svg)")


def _fit(args: argparse.Namespace) -> RegNetDesign | None:
    """Print and draw the quantized line nearest to the widths of a network."""
    if (args.name is None) == (args.widths is None) or (args.name and args.depths):
        known = ", ".join(KNOWN)
        raise UserError(f"pass either a name ({known}, or a RegNet) or --widths with --depths")
    title, widths, depths, given = args.name or "these widths", args.widths, args.depths, None
    if args.name in KNOWN:
        widths, depths = KNOWN[args.name]
    elif args.name:
        given = searching.zoo_design(args.name)
        title, widths = f"{title} before it is fitted to groups", given.block_widths.quantized
    if not (args.stages == "any" or args.stages.isdecimal()):
        raise UserError(f"--stages must be a number or 'any', got '{args.stages}'")
    result = fit(widths, depths, num_stages=None if args.stages == "any" else int(args.stages))
    law = f"w_0 {result.w_0}, w_a {result.w_a:g}, w_m {result.w_m:g}, depth {result.depth}"
    title = f"{title}: {law}; mean log-ratio error {result.error:.4f}"
    rows, block = [], 1
    for (old, new), count in runs(zip(map(int, result.observed), result.quantized, strict=True)):
        rows.append((f"{block} to {block + count - 1}", old, new, f"{new / old - 1:+.1%}"))
        block += count
    print(f"{title}\n\n{out.table(('blocks', 'observed', 'fitted', 'difference'), rows)}")
    if args.picture:
        steps = {"fitted, quantized": result.quantized}
        out.write_chart(
            args.picture, out.width_figure(title, result.continuous, steps, result.observed)
        )
    if result.design is None:
        print("\na RegNet needs 4 stages; use --stages 4 for a design")
        if args.format or args.build:
            raise UserError("--format and --build need 4 stages; use --stages 4")
        return None
    numbers = {name: getattr(result, name) for name in ("w_0", "w_a", "w_m", "depth")}
    if args.group_width is not None:
        numbers["group_width"] = args.group_width
    design = replace(given or result.design, **numbers)
    print(f"\n{out.describe(design)}")
    return design


def _add_scale(parser: argparse.ArgumentParser) -> None:
    _add_design(parser)
    add = parser.add_argument
    add("--factor", type=float, required=True, metavar="NUMBER", help="growth of the multiply-adds")
    strategy_help = f"what grows of d, w, g and r: dw, d1_w2_r1, ... (default: {FAST})"
    add("--strategy", default=FAST, metavar="TEXT", help=strategy_help)
    add("--image-size", type=int, default=224, metavar="PIXELS", help="side (default: 224)")


def _scale(args: argparse.Namespace) -> RegNetDesign:
    """Scale a design, and print both."""
    name, design = _chosen_design(args)
    scaled = scale(design, args.factor, strategy=args.strategy, image_size=args.image_size)
    networks = {
        name or "given": (design, args.image_size),
        "scaled": (scaled.design, scaled.image_size),
    }
    rows = [
        (title, out.describe(network), size, *out.cost_columns(complexity(network, size)))
        for title, (network, size) in networks.items()
    ]
    print(out.table(("", "design", "image", *out.COST_HEADERS), rows))
    print(
        f"\ndepth x {scaled.depth:.3g}, width x {scaled.width:.3g}, group width x "
        f"{scaled.group_width:.3g}, resolution x {scaled.resolution:.3g}: multiply-adds x "
        f"{scaled.flops_factor:.3g} (asked for: {args.factor:g})"
    )
    return scaled.design


# What adds its arguments, what runs it, and what it shows. A design that is returned is put out as
# the options of `_add_output` say; a number is the exit status.
SUBCOMMANDS: Mapping[str, tuple[Callable, Callable, str]] = {
    "list": (_add_list, _list, "every named network, what it costs, and its default weights"),
    "show": (_add_show, _show, "what a design is and costs, and whether the paper's findings hold"),
    "fit": (_add_fit, _fit, "the quantized line nearest to the widths of any network"),
    **searching.SUBCOMMANDS,
    "scale": (_add_scale, _scale, "a design scaled up"),
}
GIVING_DESIGNS = ("show", "fit", "search", "scale")
