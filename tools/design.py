"""`regnet-backbones design` in a checkout; see `python tools/design.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand, and return the exit status."""
    return run_subcommand("design", argv, prog="python tools/design.py")


if __name__ == "__main__":
    sys.exit(main())
