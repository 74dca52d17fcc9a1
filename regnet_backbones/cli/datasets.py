"""`convert-data`, `prepare-ade20k`, which converts masks, and `shapes`, the demo dataset."""

import argparse
from pathlib import Path

from regnet_backbones.cli.run import add_split_options, subcommand
from regnet_backbones.errors import UserError
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

CONVERT = """\
Write COCO jsons of data in another format, or of one dataset that is split.

    %(prog)s yolo:data.yaml --output coco
    %(prog)s voc:VOCdevkit/VOC2012 --output coco
    %(prog)s labelme:labels --output coco --val-fraction 0.2 --group '^(.+)_[0-9]+'
    %(prog)s coco:instances.json,images --output coco --val-fraction 0.2

Of YOLO every entry of data.yaml becomes a json (train.json, val.json, test.json), of Pascal VOC
every list in ImageSets/Main of one of these names, else there is one, instances.json. Images stay
where they are; nothing is overwritten.
"""


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert-data`."""
    source = "coco:FILE,IMAGES, yolo:data.yaml, voc:FOLDER or labelme:FOLDER"
    parser.add_argument("source", metavar="FORMAT:PATH", help=source)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for jsons")
    add_split_options(parser)


@subcommand(CONVERT, convert_arguments)
def convert_data(args: argparse.Namespace) -> int:
    """Write the jsons; print where they are, where their images are, and how often classes are."""
    from regnet_backbones.data import sources, splits

    check_output_folder(args.output, name="--output")
    source = sources.parse_source(args.source)
    if args.val_fraction is not None:
        parts = sources.read_and_split(source, args.val_fraction, args.split_seed, args.group)
    elif args.group is not None:
        raise UserError("--group needs --val-fraction; add it, or leave out --group")
    else:
        parts = sources.read_parts(sources.parts_of(source))
    files = sources.write_new(parts, args.output)

    from regnet_backbones.runs.look import table_of

    print(table_of(*splits.class_table({part: data.content for part, data in parts.items()})))
    for part, file in files.items():
        print(f"{file}: images in {parts[part].images}")
    return 0


def shapes_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `shapes`."""
    add, default = parser.add_argument, "default: %(default)s"
    add("--output", type=Path, default=Path("datasets/shapes"), metavar="DIR", help=default)
    add("--num-train", type=int, default=1600, metavar="N", help=f"training images ({default})")
    add("--num-val", type=int, default=100, metavar="N", help=f"validation images ({default})")
    add("--image-size", type=int, default=128, metavar="PIXELS", help=f"side ({default})")
    add("--seed", type=int, default=0, help=default)
    add("--overwrite", action="store_true", help="replace another shapes dataset")


@subcommand(SHAPES, shapes_arguments)
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


def ade20k_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare-ade20k`."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder with 'annotations'")
    parser.add_argument("--overwrite", action="store_true", help="convert existing masks again")


@subcommand(ADE20K, ade20k_arguments)
def prepare_ade20k(args: argparse.Namespace) -> int:
    """Convert the masks of both splits and print where they are."""
    from regnet_backbones.detection.ade20k import convert_masks

    for folder, written in convert_masks(args.root, overwrite=args.overwrite).items():
        state = "written" if written else "already there, left as they are"
        print(f"{folder}: {len(list(folder.iterdir()))} masks, {state}")
    return 0
