"""`regnet-backbones report` in a checkout; see `python tools/report.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and return the exit status."""
    return run_subcommand("report", argv, prog="python tools/report.py")


if __name__ == "__main__":
    sys.exit(main())
