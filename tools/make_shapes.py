"""`regnet-backbones shapes` in a checkout; see `python tools/make_shapes.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, and return the exit status."""
    return run_subcommand("shapes", argv, prog="python tools/make_shapes.py")


if __name__ == "__main__":
    sys.exit(main())
