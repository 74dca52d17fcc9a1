"""`regnet-backbones predict` in a checkout; see `python tools/predict.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, and return the exit status."""
    return run_subcommand("predict", argv, prog="python tools/predict.py")


if __name__ == "__main__":
    sys.exit(main())
