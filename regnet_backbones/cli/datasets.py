"""`shapes`, which draws the demo dataset, and `prepare-ade20k`, which converts masks."""

import argparse
from pathlib import Path

from regnet_backbones.cli.command_lines import command_parser
from regnet_backbones.cli.run import subcommand
from regnet_backbones.files import check_output_folder

SHAPES = """\
Draw the demo dataset: COCO instances, keypoints and panoptic, and semantic masks as ADE20K's.

    %(prog)s --output datasets/shapes
    %(prog)s --output datasets/shapes --num-train 1000 --seed 1 --overwrite

A folder that already holds the same dataset is left as it is.
"""

ADE20K = """\
Write ADE20K's masks for Detectron2: `annotations_detectron2` next to `annotations`.

    %(prog)s datasets/ADEChallengeData2016

The folder is that of the scene parsing benchmark, ADEChallengeData2016, or any in its layout. Masks
that exist are left as they are; the demo dataset is drawn with them.
"""


def shapes_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `shapes`."""
    parser = command_parser(prog, SHAPES)
    add = parser.add_argument
    add("--output", type=Path, default=Path("datasets/shapes"), metavar="DIR")
    add("--num-train", type=int, default=1600, metavar="N", help="images (%(default)s)")
    add("--num-val", type=int, default=100, metavar="N", help="images (%(default)s)")
    add("--image-size", type=int, default=128, metavar="PIXELS", help="default: %(default)s")
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace another shapes dataset")
    return parser


@subcommand(shapes_parser)
def draw_shapes(args: argparse.Namespace) -> int:
    """Write the dataset and print what it holds."""
    from regnet_backbones import shapes

    check_output_folder(args.output.parent, name="the folder of --output")
    spec = shapes.ShapesSpec(args.num_train, args.num_val, args.image_size, args.seed)
    dataset = shapes.write(args.output, spec, overwrite=args.overwrite)
    state = "written" if dataset.written else "exists already, unchanged"
    images = f"{spec.num_train} training and {spec.num_val} validation images"
    print(f"{dataset.root}: {images}, {state}")
    return 0


def ade20k_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `prepare-ade20k`."""
    parser = command_parser(prog, ADE20K)
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder with 'annotations'")
    parser.add_argument("--overwrite", action="store_true", help="convert masks again")
    return parser


@subcommand(ade20k_parser)
def prepare_ade20k(args: argparse.Namespace) -> int:
    """Convert the masks of both splits and print where they are."""
    from regnet_backbones.detection.ade20k import convert_masks

    for folder, written in convert_masks(args.root, overwrite=args.overwrite).items():
        state = "written" if written else "already there, left as they are"
        print(f"{folder}: {len(list(folder.iterdir()))} masks, {state}")
    return 0
