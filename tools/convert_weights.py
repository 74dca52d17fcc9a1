"""`regnet-backbones convert-weights` in a checkout: `python tools/convert_weights.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Convert, and return the exit status."""
    return run_subcommand("convert-weights", argv, prog="python tools/convert_weights.py")


if __name__ == "__main__":
    sys.exit(main())
