"""`install-detectron2`: Detectron2 0.6 into the present environment."""

import argparse
from pathlib import Path

from regnet_backbones.cli.command_lines import command_parser
from regnet_backbones.cli.run import subcommand

INSTALL = """\
Install Detectron2 0.6 next to this package, with any pip and any setuptools.

    %(prog)s
    %(prog)s --wheel wheels

A Detectron2 that can be imported is left alone. The Python files are installed, without the
compiled extension, which only rotated boxes need.
"""


def install_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `install-detectron2`."""
    parser = command_parser(prog, INSTALL)
    text = "write the wheel to this folder, and do not install it"
    parser.add_argument("--wheel", type=Path, metavar="FOLDER", help=text)
    return parser


@subcommand(install_parser)
def install_detectron2(args: argparse.Namespace) -> int:
    """Install it unless it is there, or write its wheel."""
    from regnet_backbones.adapters.detectron2 import installing

    if args.wheel is None and (folder := installing.installed_detectron2()):
        print(f"Detectron2 is installed in {folder}, and left alone")
        return 0
    name = installing.install(args.wheel)
    print(f"installed {name}" if args.wheel is None else args.wheel / name)
    return 0
