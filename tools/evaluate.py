"""`regnet-backbones evaluate` in a checkout; see `python tools/evaluate.py --help`."""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.main import run_subcommand


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, and return the exit status."""
    return run_subcommand("evaluate", argv, prog="python tools/evaluate.py")


if __name__ == "__main__":
    sys.exit(main())
