"""`regnet-backbones train-detector` in a checkout; see `python tools/train_net.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Train or evaluate, and return the exit status."""
    return run_subcommand("train-detector", argv, prog="python tools/train_net.py")


if __name__ == "__main__":
    sys.exit(main())
