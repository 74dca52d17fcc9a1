"""`regnet-backbones prepare-ade20k` in a checkout; see `python tools/prepare_ade20k.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Convert, and return the exit status."""
    return run_subcommand("prepare-ade20k", argv, prog="python tools/prepare_ade20k.py")


if __name__ == "__main__":
    sys.exit(main())
