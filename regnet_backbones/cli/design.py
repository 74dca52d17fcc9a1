"""The command `design`: look at designs, fit, sample, search, compare and scale them.

numpy is imported to sample and search, scipy for distributions, torch to measure and to build.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from itertools import combinations, groupby
from pathlib import Path

from regnet_backbones import zoo
from regnet_backbones.cli import design_search
from regnet_backbones.cli.command_lines import command_parser, plain_command
from regnet_backbones.cli.design_charts import check_chart, edf_figure, width_figure, write_chart
from regnet_backbones.cli.design_options import (
    add_cost,
    cost_arguments,
    cost_columns,
    describe,
    image_size,
    table,
)
from regnet_backbones.cli.run import run_command
from regnet_backbones.design import (
    FORMATS,
    AnyNetDesign,
    Design,
    RegNetDesign,
    check_rules,
    complexity,
    design_of,
    fit,
    read_records,
    scale,
    to_format,
)
from regnet_backbones.design.blocks import NUM_STAGES, STRIDE
from regnet_backbones.design.fitting import FAST
from regnet_backbones.design.formats import check_is_regnet
from regnet_backbones.design.records import read_results
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import check_output_folder, write_whole

DESCRIPTION = """\
Design your own RegNet: show one, fit, sample, search, compare and scale.

    %(prog)s list regnety --image-size 640
    %(prog)s show regnety_032 --image-size 800x1333 --picture regnety_032.png
    %(prog)s show --w0 48 --wa 28 --wm 1.8 --depth 7 --group-width 16 --build
    %(prog)s fit --widths 256 512 1024 2048 --depths 3 4 6 3 --picture resnet50.png
    %(prog)s sample --space RegNetY --count 100 --flops 400M --output y_400mf
    %(prog)s search --space RegNetY --image-size 640 --latency-ms 5 --output found
    %(prog)s edf x_400mf.json any_400mf.json --column activations --output edf.png
    %(prog)s scale regnety_008 --factor 4 --format detectron2 --write my_4x.yaml

A design is a name, its numbers, or a row of results (--from found.json --index 3). --format prints
it for Detectron2 (MODEL.REGNET), SMP (register_encoder) or timm (RegNetCfg), --build builds it
there at once. Bounds are 400M (within 5%%), 380M:420M, 6.3M: (at least) or :8M (at most). Each
command explains itself: %(prog)s search --help. docs/design.md walks through all of it.
"""

# The numbers of a design on a command line; a design takes the first five at least.
NUMBERS: dict[str, tuple[str, Callable[[str], float]]] = {
    "w_0": ("--w0", int),
    "w_a": ("--wa", float),
    "w_m": ("--wm", float),
    "depth": ("--depth", int),
    "group_width": ("--group-width", int),
    "bottleneck_multiplier": ("--bottleneck-multiplier", float),
    "se_ratio": ("--se-ratio", float),
    "stem_width": ("--stem-width", int),
}
REQUIRED = ("w_0", "w_a", "w_m", "depth", "group_width")
OF_A_FIT = ("group_width", "bottleneck_multiplier", "se_ratio")  # what a fit leaves open

# Widths and depths of the stages of well-known networks; EfficientNet has seven.
# Sources: torchvision `models/resnet.py` and `models/efficientnet.py`.
RESNET_WIDTHS = (256, 512, 1024, 2048)
KNOWN: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "resnet50": (RESNET_WIDTHS, (3, 4, 6, 3)),
    "resnet101": (RESNET_WIDTHS, (3, 4, 23, 3)),
    "resnext50": (RESNET_WIDTHS, (3, 4, 6, 3)),
    "resnext101": (RESNET_WIDTHS, (3, 4, 23, 3)),
    "efficientnet_b0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
}

QUANTILES = (0.1, 0.25, 0.75, 0.9)

# Of the images that a network is built and run on.
BUILT_SIZE = 64
ENCODER = "regnet_of_this_command"
PACKAGES = {"detectron2": "detectron2", "smp": "segmentation_models_pytorch", "timm": "timm"}


def design_command(argv: Sequence[str], prog: str) -> int:
    """Run a subcommand; the exit status is 1 if a search found nothing."""
    args = design_parser(prog).parse_args(argv)
    return run_command(lambda: _run(args, argv))


def design_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(prog, DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (add_arguments, run, summary) in SUBCOMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=f"Show {summary}.")
        add_arguments(subparser)
        if run in (_show, _fit, _scale, design_search.run_search):
            _add_output(subparser)
        subparser.set_defaults(run=run)
    return parser


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run the subcommand, after what can be checked before it."""
    given = vars(args)
    written = {name: given.get(name) for name in ("output", "write", "picture")}
    base = given.get("base")
    private = [*written.values(), base if base and Path(base).is_absolute() else None]
    args.command = plain_command("regnet-backbones design", argv, private)
    for name, path in written.items():
        if path:
            check_output_folder(Path(path).parent, name=f"the folder of --{name}")
    if written["write"] and not args.format:
        raise UserError(f"--write needs --format, one of {', '.join(FORMATS)}")
    if base and args.format != "detectron2":
        raise UserError("--base needs --format detectron2")
    if base and not Path(base).is_file():
        raise MissingFileError(f"--base: there is no config '{base}'")
    if written["picture"]:
        check_chart(args.picture)
    chosen = args.run(args)
    if isinstance(chosen, RegNetDesign | AnyNetDesign):
        _show_output(args, chosen)
        return 0
    return chosen or 0


def _add_design(parser: argparse.ArgumentParser) -> None:
    """Add the ways to name a design."""
    add = parser.add_argument_group(
        "the network", "a name, all numbers, or a row of results; numbers change a name or a row"
    ).add_argument
    add("name", nargs="?", metavar="NAME", help="regnety_032, RegNetX-400MF, ...")
    add("--from", dest="results", metavar="JSON", help="results of sample or search")
    add("--index", type=int, metavar="N", help="row (default: what the search chose, else 0)")
    for name, (option, kind) in NUMBERS.items():
        add(option, dest=name, type=kind, metavar="NUMBER")


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Add what a design becomes."""
    add = parser.add_argument_group("what the design becomes").add_argument
    add("--format", choices=FORMATS, help="print it for another project")
    add("--base", metavar="YAML", help="Detectron2's config that the rest is taken from (_BASE_)")
    add("--write", metavar="FILE", help="write that, instead of printing it")
    add("--build", action="store_true", help="build it, in --format's project or in all there are")


def _chosen_design(args: argparse.Namespace) -> tuple[str, Design]:
    """Return the network that is asked for and its name, "" where numbers were given."""
    numbers = {name: getattr(args, name) for name in NUMBERS if getattr(args, name) is not None}
    if args.name and args.results:
        raise UserError(f"give a name or --from, not both; got '{args.name}' and {args.results}")
    if args.name:
        variant = zoo.get(args.name)
        if variant.design is None:
            raise UserError(
                f"the widths of {variant.name} follow no quantized line, so it has no design"
            )
        return "" if numbers else variant.name, replace(variant.design, **numbers)
    if args.results:
        design = _row(args.results, args.index)
        if not numbers.keys() <= {each.name for each in fields(design)}:
            raise UserError("an AnyNet is given by its stages, --se-ratio and --stem-width alone")
        return "", replace(design, **numbers)
    missing = [NUMBERS[name][0] for name in REQUIRED if name not in numbers]
    if missing:
        raise UserError(
            "give a name such as regnety_032, --from with results, or all numbers; missing: "
            f"{', '.join(missing)}"
        )
    return "", RegNetDesign(**numbers)


def _row(path: str, index: int | None) -> Design:
    """Return the design of a row of results, and warn of one that a search rejected."""
    rows, chosen = read_results(path)
    index = chosen if index is None else index
    if index is None:
        raise UserError(f"the search of {path} has chosen no row; give one with --index")
    if index not in range(len(rows)):
        raise UserError(f"--index must be 0 to {len(rows) - 1} for {path}, got {index}")
    design = design_of(rows[index])
    if rows[index].get("kept") is False:
        print(f"warning: row {index} of {path} was rejected by the search", file=sys.stderr)
    return design


def _show_output(args: argparse.Namespace, design: Design) -> None:
    """Print, write and build a design as the options say."""
    if args.format:
        base = args.base
        if base:  # as _BASE_ names it: relative to the folder of the new config
            folder = Path(args.write).parent if args.write else Path()
            base = Path(os.path.relpath(base, folder)).as_posix()
        text = to_format(args.format, design, base=base)
        if args.write:
            write_whole(Path(args.write), lambda file: file.write(f"{text}\n".encode()))
            print(f"written to {args.write}", file=sys.stderr)
        else:
            print(f"\n{text}")
    if not args.build:
        return
    from regnet_backbones.backbone import RegNetFeatures

    RegNetFeatures(check_is_regnet(design))  # raises where timm would build other stages
    print()
    for name in [args.format] if args.format else FORMATS:
        try:
            print(f"{name}: {_build(design, name)}")
        except UserError as error:  # it has no words for the design
            if args.format:
                raise
            print(f"{name}: not built, {error}")


def _build(design: Design, name: str) -> str:
    """Build a design from its text for another project, run it, and describe what came out."""
    if find_spec(PACKAGES[name]) is None:
        return "not installed"
    import torch

    text = to_format(name, design, title=ENCODER)
    images = torch.zeros(1, 3, BUILT_SIZE, BUILT_SIZE)
    if name == "detectron2":
        import yaml
        from detectron2.config import CfgNode, get_cfg
        from detectron2.modeling import build_backbone

        cfg = get_cfg()
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(text)))
        network = build_backbone(cfg)
    else:
        if name == "smp":
            from segmentation_models_pytorch.encoders import encoders

            encoders.pop(ENCODER, None)  # of a build before
        names: dict[str, torch.nn.Module] = {}
        exec(text, names)  # our own code: what is printed is what is built
        network = names["model"]
    network.eval()
    with torch.no_grad():
        outputs = (network.encoder if name == "smp" else network)(images)
    if isinstance(outputs, torch.Tensor):
        outputs = {"logits": outputs}
    maps = outputs if isinstance(outputs, dict) else dict(enumerate(outputs))
    shapes = ", ".join(f"{key} {'x'.join(map(str, m.shape[1:]))}" for key, m in maps.items())
    params = sum(parameter.numel() for parameter in network.parameters())
    return f"built, {params:,} parameters, {type(network).__name__}, outputs {shapes}"


def _add_list(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `list`."""
    add = parser.add_argument
    add("family", nargs="*", metavar="START", help="of names: regnety, regnetx_0, ... default: all")
    add(
        "--image-size",
        type=image_size,
        default=(800, 1333),
        metavar="SIZE",
        help="of the second count of multiply-adds, of the backbone alone (default: 800x1333)",
    )
    add("--markdown", action="store_true", help="as a table for a document")


def _list(args: argparse.Namespace) -> None:
    """Print every named network, what it costs, and its default weights."""
    starts = tuple(args.family) or ("",)
    names = [name for name in zoo.names() if name.startswith(starts)]
    if not names:
        raise UserError(f"no name starts with {' or '.join(starts)}; {zoo.names()[0]} is one")
    height, width = args.image_size
    headers = (
        *("name", "in the paper", "params (M)", "multiply-adds at 224 (G)"),
        *(f"backbone at {height}x{width} (G)", "activations at 224 (M)"),
        *("top-1 (%)", "default weights", "licence"),
    )
    rows = [_variant_row(zoo.get(name), args.image_size) for name in names]
    if args.markdown:
        lines = [headers, ["---"] * len(headers), *rows]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    else:
        print(table(headers, rows))


def _variant_row(variant: zoo.Variant, size: tuple[int, int]) -> tuple[str, ...]:
    """Return what is known of a variant; what is not, is empty."""
    costs = ("", "", "", "")
    if variant.design is not None:
        cost = complexity(variant.design)
        backbone = complexity(variant.design, size, None)
        costs = (
            f"{cost.params / 1e6:.1f}",
            f"{cost.flops / 1e9:.2f}",
            f"{backbone.flops / 1e9:.1f}",
            f"{cost.activations / 1e6:.1f}",
        )
    weights = variant.weights.get(variant.default_tag)
    top1 = "" if weights is None or weights.top1 is None else f"{weights.top1:.1f}"
    licence = "" if weights is None else weights.licence
    named = variant.name, variant.paper_name or ""
    return (*named, *costs, top1, variant.default_tag or "", licence)


def _add_show(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `show`."""
    _add_design(parser)
    add_cost(parser)
    parser.add_argument("--picture", metavar="FILE", help="line, quantized widths, stages")


def _show(args: argparse.Namespace) -> Design:
    """Print what a design is and costs, and which of the paper's findings it follows."""
    name, design = _chosen_design(args)
    (height, width), num_classes = cost_arguments(args)
    if args.picture and not isinstance(design, RegNetDesign):
        raise UserError("--picture draws the law of a RegNet, and an AnyNet has none")
    title = f"{name}: {describe(design)}" if name else describe(design)
    print(f"{title}\n\n{_stage_table(design, (height, width), num_classes)}")
    classes = f"{num_classes} classes" if num_classes else "the backbone alone"
    print(f"at {height}x{width}, {classes}\n")
    rows = [
        ("yes" if rule.holds else "NO", rule.name, rule.found, rule.wanted, rule.source)
        for rule in check_rules(design)
    ]
    print(table(("holds", "rule", "found", "wanted", "source"), rows, align="left"))
    if args.picture:
        fitted = [stage.width for stage in design.stages for _ in range(stage.depth)]
        blocks = design.block_widths
        steps = {"stages, fitted to their groups": fitted, "quantized": blocks.quantized}
        write_chart(args.picture, width_figure(title, blocks.continuous, steps))
    return design


def _stage_table(design: Design, size: tuple[int, int], num_classes: int | None) -> str:
    """Return the table of stem, stages, head and all, with the costs of each."""
    cost = complexity(design, size, num_classes)
    rows: list[Sequence[object]] = [("stem", design.stem_width, "", "", "", STRIDE)]
    for i, stage in enumerate(design.stages, start=1):
        groups = stage.bottleneck_width // stage.group_width
        shape = stage.width, stage.depth, groups, stage.group_width
        rows.append((f"s{i}", *shape, STRIDE ** (i + 1)))
    if num_classes is not None:
        rows.append(("head", design.head_width or "", "", "", "", ""))
    rows = [(*row, *cost_columns(cost.parts[row[0]])) for row in rows]
    depth = sum(stage.depth for stage in design.stages)
    rows.append(("all", "", depth, "", "", "", *cost_columns(cost)))
    headers = ("", "width", "depth", "groups", "group width", "stride")
    return table((*headers, "multiply-adds", "params", "activations"), rows)


def _add_fit(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fit`."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help=f"{', '.join(KNOWN)}, or a RegNet")
    add("--widths", nargs="+", type=int, metavar="N", help="of stages, or of all blocks")
    add("--depths", nargs="+", type=int, metavar="N", help="of stages")
    add(
        "--stages",
        default=str(NUM_STAGES),
        metavar="N",
        help="of the fitted law; 'any' for what fits best (default: 4, which can be built)",
    )
    for name in OF_A_FIT:
        option, kind = NUMBERS[name]
        add(option, type=kind, metavar="NUMBER", help="of the design (default: the RegNet's)")
    add("--picture", metavar="FILE", help="observed widths, line and fitted widths")


def _fit(args: argparse.Namespace) -> Design | None:
    """Print and draw the quantized line nearest to the widths of a network."""
    title, widths, depths, given = _observed(args)
    if not (args.stages == "any" or args.stages.isdecimal()):
        raise UserError(f"--stages must be a number or 'any', got '{args.stages}'")
    result = fit(widths, depths, num_stages=None if args.stages == "any" else int(args.stages))
    law = f"w_0 {result.w_0}, w_a {result.w_a:g}, w_m {result.w_m:g}, depth {result.depth}"
    title = f"{title}: {law}; mean log-ratio error {result.error:.4f}"
    rows, block = [], 1
    pairs = zip(map(int, result.observed), result.quantized, strict=True)
    for (observed, fitted), run in groupby(pairs):
        last = block + len(list(run)) - 1
        rows.append((f"{block} to {last}", observed, fitted, f"{fitted / observed - 1:+.1%}"))
        block = last + 1
    print(f"{title}\n\n{table(('blocks', 'observed', 'fitted', 'difference'), rows)}")
    if args.picture:
        steps = {"fitted, quantized": result.quantized}
        write_chart(args.picture, width_figure(title, result.continuous, steps, result.observed))
    if result.design is None:
        print("\nno RegNet has these stages: 4 are needed to build one (--stages 4)")
        if args.format or args.build:
            raise UserError("--format and --build need a law of 4 stages; use --stages 4")
        return None
    numbers = {name: getattr(result, name) for name in ("w_0", "w_a", "w_m", "depth")}
    open_numbers = {name: getattr(args, name) for name in OF_A_FIT}
    numbers |= {name: value for name, value in open_numbers.items() if value is not None}
    design = replace(given or result.design, **numbers)
    print(f"\n{describe(design)}")
    return design


def _observed(
    args: argparse.Namespace,
) -> tuple[str, Sequence[int], Sequence[int] | None, RegNetDesign | None]:
    """Return a title, the widths and depths that were asked for, and whose design they are.

    The widths of a RegNet are those that its law gives, before they are fitted to its groups.
    """
    if (args.name is None) == (args.widths is None) or (args.name and args.depths):
        raise UserError(
            f"give a name ({', '.join(KNOWN)}, or a RegNet), or --widths with --depths, and not "
            "both"
        )
    if args.name is None:
        return "these widths", args.widths, args.depths, None
    if args.name in KNOWN:
        return args.name, *KNOWN[args.name], None
    variant = zoo.get(args.name)
    if variant.design is None:
        raise UserError(f"the stages of {variant.name} are not known here; give --widths")
    title = f"{variant.name} before it is fitted to groups"
    return title, variant.design.block_widths.quantized, None, variant.design


def _add_edf(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edf`."""
    add = parser.add_argument
    add(
        "results",
        nargs="+",
        metavar="JSON",
        help='results of sample or search, or a list of rows of your own ({"error": 24.1, ...})',
    )
    add("--column", default="error", metavar="NAME", help="flops, activations, ... default: error")
    add("--confidence", type=float, default=0.95, metavar="SHARE", help="of the bootstrap bands")
    add("--output", metavar="FILE", help="chart, .png or .svg")


def _edf(args: argparse.Namespace) -> None:
    """Print and draw the empirical distribution functions of results."""
    if args.output:
        check_chart(args.output)
    labels = [Path(path).stem for path in args.results]
    if len(set(labels)) < len(labels):
        raise UserError(f"files must have different names, got {', '.join(labels)}")
    from regnet_backbones.design import column, compare, edf

    edfs = {}
    for label, path in zip(labels, args.results, strict=True):
        edfs[label] = edf(column(read_records(path), args.column), confidence=args.confidence)
    rows: list[Sequence[object]] = []
    for label, curve in edfs.items():
        low, high = curve.interval(0.5)
        mean = sum(curve.values) / len(curve.values)
        others = (curve.values[0], mean, *map(curve.quantile, QUANTILES))
        numbers = [f"{number:.4g}" for number in others]
        median = f"{curve.quantile(0.5):.4g}", f"{low:.4g} to {high:.4g}"
        rows.append((label, len(curve.values), *median, *numbers))
    headers = ("", "designs", "median", f"its {100 * args.confidence:g}% band", "lowest", "mean")
    print(table((*headers, *(f"{q:.0%}" for q in QUANTILES)), rows))
    if len(edfs) > 1:
        rows = []
        for a, b in combinations(edfs, 2):
            both = compare(edfs[a], edfs[b])
            test = f"{both.distance:.3f}", f"{both.p_value:.2g}"
            rows.append((a, b, f"{both.share_smaller:.1%}", *test))
        print(f"\n{table(('a', 'b', 'a is smaller', 'largest distance', 'p (KS)'), rows)}")
    if args.output:
        write_chart(args.output, edf_figure(edfs, xlabel=args.column))
        print(f"\nwritten to {args.output}")


def _add_scale(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `scale`."""
    _add_design(parser)
    add = parser.add_argument
    add("--factor", type=float, required=True, metavar="NUMBER", help="of the multiply-adds")
    add(
        "--strategy",
        default=FAST,
        metavar="TEXT",
        help="how depth, width, group width and resolution share it: dw, d1_w2_r1, ... "
        f"(default: {FAST}, the paper's fast compound scaling)",
    )
    add("--image-size", type=int, default=224, metavar="PIXELS", help="side (default: 224)")


def _scale(args: argparse.Namespace) -> Design:
    """Scale a design, and print both."""
    name, design = _chosen_design(args)
    scaled = scale(
        check_is_regnet(design), args.factor, strategy=args.strategy, image_size=args.image_size
    )
    networks = {
        name or "given": (design, args.image_size),
        "scaled": (scaled.design, scaled.image_size),
    }
    rows = [
        (title, describe(network), size, *cost_columns(complexity(network, size)))
        for title, (network, size) in networks.items()
    ]
    print(table(("", "design", "image", "multiply-adds", "params", "activations"), rows))
    print(
        f"\ndepth x {scaled.depth:.3g}, width x {scaled.width:.3g}, group width x "
        f"{scaled.group_width:.3g}, resolution x {scaled.resolution:.3g}: multiply-adds x "
        f"{scaled.flops_factor:.3g} (asked for: {args.factor:g})"
    )
    return scaled.design


# What adds its arguments, what runs it, and what it shows. One that returns a design lets --format,
# --write and --build go on with it; a number is the exit status.
SUBCOMMANDS: Mapping[str, tuple[Callable, Callable, str]] = {
    "list": (_add_list, _list, "every named network, what it costs, and its default weights"),
    "show": (_add_show, _show, "what a design is and costs, and whether the paper's findings hold"),
    "fit": (_add_fit, _fit, "the quantized line nearest to the widths of any network"),
    "sample": (
        design_search.add_sample,
        design_search.run_sample,
        "random designs of a space within bounds",
    ),
    "search": (
        design_search.add_search,
        design_search.run_search,
        "random designs, measured on this machine",
    ),
    "edf": (_add_edf, _edf, "empirical distribution functions of results, to compare spaces"),
    "scale": (_add_scale, _scale, "a design scaled up"),
}
