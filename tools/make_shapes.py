"""Draw the demo dataset: COCO instances, keypoints and panoptic, and semantic masks as ADE20K's.

    python tools/make_shapes.py --output datasets/shapes
    python tools/make_shapes.py --output datasets/shapes --num-train 1000 --seed 1 --overwrite

A folder that already holds the same dataset is left as it is.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from regnet_backbones import shapes
from regnet_backbones.cli.failures import reported
from regnet_backbones.files import check_output_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Write the dataset and print what it holds."""
    args = _parser().parse_args(argv)
    return reported(lambda: _make(args))


def _make(args: argparse.Namespace) -> int:
    """Draw as the command line says."""
    check_output_folder(args.output.parent, name="the folder of --output")
    spec = shapes.ShapesSpec(
        num_train=args.num_train,
        num_val=args.num_val,
        image_size=args.image_size,
        seed=args.seed,
    )
    dataset = shapes.write(args.output, spec, overwrite=args.overwrite)
    print(f"{dataset.root}: {'written' if dataset.written else 'already there, left as it is'}")
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


def _parser() -> argparse.ArgumentParser:
    default = shapes.ShapesSpec()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("datasets/shapes"), metavar="DIR")
    parser.add_argument("--num-train", type=int, default=default.num_train, metavar="N")
    parser.add_argument("--num-val", type=int, default=default.num_val, metavar="N")
    parser.add_argument("--image-size", type=int, default=default.image_size, metavar="PIXELS")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--overwrite", action="store_true", help="replace another shapes dataset")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
