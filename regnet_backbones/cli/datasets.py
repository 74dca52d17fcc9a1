"""`shapes`, which draws the demo dataset, and `prepare-ade20k`, which converts masks."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from regnet_backbones.cli.command_lines import command_parser
from regnet_backbones.cli.run import run_command
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


def draw_shapes(argv: Sequence[str], prog: str) -> int:
    """Write the dataset and print what it holds."""
    args = shapes_parser(prog).parse_args(argv)
    return run_command(lambda: _draw(args))


def shapes_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `shapes`."""
    parser = command_parser(prog, SHAPES)
    parser.add_argument("--output", type=Path, default=Path("datasets/shapes"), metavar="DIR")
    for option, default in (("train", 1600), ("val", 100)):
        parser.add_argument(
            f"--num-{option}", type=int, default=default, metavar="N", help="images (%(default)s)"
        )
    parser.add_argument(
        "--image-size", type=int, default=128, metavar="PIXELS", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace another shapes dataset")
    return parser


def _draw(args: argparse.Namespace) -> int:
    from regnet_backbones import shapes

    check_output_folder(args.output.parent, name="the folder of --output")
    spec = shapes.ShapesSpec(
        num_train=args.num_train,
        num_val=args.num_val,
        image_size=args.image_size,
        seed=args.seed,
    )
    dataset = shapes.write(args.output, spec, overwrite=args.overwrite)
    print(f"{dataset.root}: {'written' if dataset.written else 'exists already, unchanged'}")
    for split, images in zip(shapes.SPLITS, (spec.num_train, spec.num_val), strict=True):
        counts = dataset.counts(split)
        per_class = ", ".join(f"{name} {count}" for name, count in counts.items())
        print(f"\n{split}: {images} images, {sum(counts.values())} shapes ({per_class})")
        print(f"  images            {dataset.images(split)}")
        print(f"  instances         {dataset.instances_json(split)}")
        print(f"  keypoints         {dataset.keypoints_json(split)}")
        print(f"  panoptic          {dataset.panoptic_json(split)}")
        print(f"  panoptic masks    {dataset.panoptic_masks(split)}")
        print(f"  semantic images   {dataset.semantic_images(split)}")
        print(f"  semantic masks    {dataset.semantic_masks(split)}")
    print(f"\nsemantic labels: {dataset.class_list}")
    return 0


def prepare_ade20k(argv: Sequence[str], prog: str) -> int:
    """Convert the masks of both splits and print where they are."""
    args = ade20k_parser(prog).parse_args(argv)

    def convert() -> int:
        from regnet_backbones.detection.ade20k import convert_masks

        for folder, written in convert_masks(args.root, overwrite=args.overwrite).items():
            state = "written" if written else "already there, left as they are"
            print(f"{folder}: {len(list(folder.iterdir()))} masks, {state}")
        return 0

    return run_command(convert)


def ade20k_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `prepare-ade20k`."""
    parser = command_parser(prog, ADE20K)
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder with 'annotations'")
    parser.add_argument("--overwrite", action="store_true", help="convert masks again")
    return parser
