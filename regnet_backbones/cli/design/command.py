"""The subcommands of `tools/design.py`, each in a file of its own."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from regnet_backbones.cli.command_lines import plain_command
from regnet_backbones.cli.design import edf, fit, sample, scale, search, show, variants
from regnet_backbones.cli.design.packages import check_package
from regnet_backbones.cli.failure_lines import Cause
from regnet_backbones.cli.failures import reported
from regnet_backbones.files import check_output_folder

# What to do, in the options of the commands.
HINTS = {
    Cause.OUT_OF_MEMORY: "take a smaller --image-size, --measure-size, --count or --batch",
    Cause.NOT_WRITABLE: "choose another file to write to",
}

SUBCOMMANDS = {
    "list": (variants, "every named network, what it costs, and its default weights"),
    "show": (show, "what a design is and costs, and which of the paper's findings it follows"),
    "fit": (fit, "the quantized line nearest to the widths of any network"),
    "sample": (sample, "random designs of a space within bounds"),
    "search": (search, "random designs, measured on this machine"),
    "edf": (edf, "empirical distribution functions of results, to compare spaces"),
    "scale": (scale, "a design scaled up"),
}


def design_command(argv: Sequence[str] | None, *, description: str) -> int:
    """Do what a command line says.

    Args:
        argv: the command line, None for that of this process.
        description: of the tool.

    Returns:
        The exit status, as `failures.reported` gives it, and 1 if nothing was found.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = design_parser(description).parse_args(argv)
    written = {name: getattr(args, name, None) for name in ("output", "write", "picture")}
    args.command = plain_command("tools/design.py", argv, [*written.values(), _outside(args)])

    def run() -> int:
        check_package("tabulate", "tables")
        for name, path in written.items():
            if path:
                check_output_folder(Path(path).parent, name=f"the folder of --{name}")
        return args.run(args)

    return reported(run, hints=HINTS)


def design_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
