"""`regnet-backbones export` in a checkout; see `python tools/export.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Export, and return the exit status."""
    return run_subcommand("export", argv, prog="python tools/export.py")


if __name__ == "__main__":
    sys.exit(main())
