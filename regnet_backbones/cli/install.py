"""`install-detectron2` and `completion`: what an environment and a shell lack."""

import argparse
from importlib import import_module
from pathlib import Path

from regnet_backbones.cli.run import subcommand

INSTALL = """\
Install Detectron2 0.6 next to this package, with any pip and any setuptools.

    %(prog)s
    %(prog)s --wheel wheels

A Detectron2 that can be imported is left alone. The Python files are installed, without the
compiled extension, which only rotated boxes need.
"""


def install_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `install-detectron2`."""
    parser.add_argument("--wheel", type=Path, metavar="FOLDER", help="write the wheel here instead")


@subcommand(INSTALL, install_arguments)
def install_detectron2(args: argparse.Namespace) -> int:
    """Install it unless it is there, or write its wheel."""
    from regnet_backbones.adapters.detectron2 import installing

    if args.wheel is None and (folder := installing.installed_detectron2()):
        print(f"Detectron2 is installed in {folder}, and left alone")
        return 0
    name = installing.install(args.wheel)
    print(f"installed {name}" if args.wheel is None else args.wheel / name)
    return 0


COMPLETION = """\
Print the completion of this command for a shell.

    %(prog)s bash > ~/.local/share/bash-completion/completions/regnet-backbones
    %(prog)s zsh > FOLDER_OF_FPATH/_regnet-backbones
"""


def completion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `completion`."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


@subcommand(COMPLETION, completion_arguments)
def completion(args: argparse.Namespace) -> int:
    """Print what shtab makes of the parsers; options that Lightning reads are not among them."""
    import shtab

    from regnet_backbones.cli.main import COMMANDS, PROG

    parser = argparse.ArgumentParser(prog=PROG)
    commands = parser.add_subparsers(dest="command")
    for name, (place, summary) in COMMANDS.items():
        module, _, function = place.partition(":")
        found = getattr(import_module(f"regnet_backbones.cli.{module}"), function)
        parents = [found.parser("")] if hasattr(found, "parser") else []
        commands.add_parser(name, help=summary, parents=parents, add_help=not parents)
    print(shtab.complete(parser, args.shell))
    return 0
