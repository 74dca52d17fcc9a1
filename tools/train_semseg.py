"""`regnet-backbones train-segmenter` in a checkout; see `python tools/train_semseg.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and return the exit status."""
    return run_subcommand("train-segmenter", argv, prog="python tools/train_semseg.py")


if __name__ == "__main__":
    sys.exit(main())
