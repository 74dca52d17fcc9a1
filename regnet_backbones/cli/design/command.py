"""The subcommands of `tools/design.py`, each in a file of its own."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from regnet_backbones.cli.command_lines import command_parser, plain_command
from regnet_backbones.cli.design import edf, fit, sample, scale, search, show, variants
from regnet_backbones.cli.design.packages import check_package
from regnet_backbones.cli.run import run_command
from regnet_backbones.files import check_output_folder

DESCRIPTION = """\
Design your own RegNet: show one, fit, sample, search, compare and scale.

    %(prog)s list regnety --image-size 640
    %(prog)s show regnety_032 --image-size 800x1333 --picture regnety_032.png
    %(prog)s show --w0 48 --wa 28 --wm 1.8 --depth 7 --group-width 16 --build
    %(prog)s fit --widths 256 512 1024 2048 --depths 3 4 6 3 --picture resnet50.png
    %(prog)s sample --space RegNetY --count 100 --flops 400M --output y_400mf
    %(prog)s search --space RegNetY --image-size 640 --latency-ms 5 --output found
    %(prog)s search --flops 0.8G --params 6.3M: --measure-size 512 \\
        --reference regnety_008 --output found
    %(prog)s edf x_400mf.json any_400mf.json --column activations --output edf.png
    %(prog)s scale regnety_008 --factor 4 --format detectron2 --write my_4x.yaml

A design is a name, its numbers, or a row of results (--from found.json --index 3). --format prints
it for Detectron2 (MODEL.REGNET), SMP (register_encoder) or timm (RegNetCfg), --build builds it
there at once. Bounds are 400M (within 5%%), 380M:420M, 6.3M: (at least) or :8M (at most). Each
command explains itself: %(prog)s search --help. docs/design.md walks through all of it.
"""

SUBCOMMANDS = {
    "list": (variants, "every named network, what it costs, and its default weights"),
    "show": (show, "what a design is and costs, and which of the paper's findings it follows"),
    "fit": (fit, "the quantized line nearest to the widths of any network"),
    "sample": (sample, "random designs of a space within bounds"),
    "search": (search, "random designs, measured on this machine"),
    "edf": (edf, "empirical distribution functions of results, to compare spaces"),
    "scale": (scale, "a design scaled up"),
}


def design_command(argv: Sequence[str], prog: str) -> int:
    """Run a subcommand; the exit status is 1 if nothing was found."""
    args = design_parser(prog).parse_args(argv)
    written = {name: getattr(args, name, None) for name in ("output", "write", "picture")}
    args.command = plain_command(
        "regnet-backbones design", argv, [*written.values(), _outside(args)]
    )

    def run() -> int:
        check_package("tabulate", "tables")
        for name, path in written.items():
            if path:
                check_output_folder(Path(path).parent, name=f"the folder of --{name}")
        return args.run(args)

    return run_command(run)


def design_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(prog, DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, summary) in SUBCOMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=f"Show {summary}.")
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _outside(args: argparse.Namespace) -> str | None:
    """Return the base where its path is one of this machine, not one of the repository."""
    base = getattr(args, "base", None)
    return base if base and Path(base).is_absolute() else None
