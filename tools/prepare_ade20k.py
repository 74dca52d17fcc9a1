"""Make ADE20K's masks for detectron2: `annotations_detectron2` beside `annotations`.

    python tools/prepare_ade20k.py datasets/ADEChallengeData2016

The folder is that of the scene parsing benchmark, ADEChallengeData2016, or any in its layout. Masks
that are there already are left as they are; the demo dataset is drawn with them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from regnet_backbones.cli.failures import reported
from regnet_backbones.detection.ade20k import convert_masks


def main(argv: Sequence[str] | None = None) -> int:
    """Convert the masks of both splits and print where they are."""
    args = _parser().parse_args(argv)
    return reported(lambda: _convert(args))


def _convert(args: argparse.Namespace) -> int:
    """Convert as the command line says."""
    for masks in convert_masks(args.root, overwrite=args.overwrite):
        state = "written" if masks.written else "already there, left as they are"
        print(f"{masks.folder}: {masks.count} masks, {state}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder with 'annotations'")
    parser.add_argument("--overwrite", action="store_true", help="convert masks again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
