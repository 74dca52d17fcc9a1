"""`regnet-backbones convert-data` in a checkout: `python tools/convert_data.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Convert, and return the exit status."""
    return run_subcommand("convert-data", argv, prog="python tools/convert_data.py")


if __name__ == "__main__":
    sys.exit(main())
