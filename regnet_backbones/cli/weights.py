"""`convert-weights`: the weights of a RegNet from any form to any other."""

import argparse
from pathlib import Path

from regnet_backbones.cli.run import subcommand
from regnet_backbones.files import check_output_folder

DESCRIPTION = """\
Convert the weights of a RegNet from any form to any other.

    %(prog)s RegNetY-3.2GF_dds_8gpu.pyth regnety_032.safetensors --to timm
    %(prog)s output/model_final.pth unet.pth --to smp
    %(prog)s output/model_final.pth fpn.pth --to torchvision-detection
    %(prog)s unet.pth model.pth --into output/model_final.pth

The suffix of the new file is its format: .pth, .pt, .bin, .torch, .safetensors, .pyth (of pycls),
.pkl (of Detectron2). Forms are dialects (timm, timm_features, torchvision, pycls, classyvision,
vissl, transformers, mmdet) and models (detector: Detectron2 on our backbone, detector_pycls: on
Detectron2's own RegNet, torchvision-detection: torchvision on our RegNetFPN, transformers-backbone:
our AutoBackbone, smp: segmentation-models-pytorch on our encoder, smp_tu: on a tu- encoder).
Between detectors of Detectron2 and torchvision the FPN goes along, and the heads do not.
"""


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert-weights`."""
    add = parser.add_argument
    add("source", help="file, URL, timm://NAME.TAG, torchvision://NAME.TAG or pycls://NAME")
    add("output", help="file to write")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--to", metavar="FORM", help="the form to convert to")
    form.add_argument("--into", metavar="FILE", help="a checkpoint that gets the network")
    add("--channel-order", choices=("RGB", "BGR"), help="default: that of the dialect")
    add("--prefix", help="which of several networks, such as teacher. or teacher.backbone.")
    add("--dry-run", action="store_true", help="print the mapping and write nothing")


@subcommand(DESCRIPTION, convert_arguments)
def convert_weights(args: argparse.Namespace) -> int:
    """Convert, and print what was done."""
    from regnet_backbones.weights.conversion import convert_file

    check_output_folder(Path(args.output).parent, name="the folder of the output")
    mapping, summary = convert_file(
        args.source,
        None if args.dry_run else args.output,
        to=args.to,
        into=args.into,
        channel_order=args.channel_order,
        prefix=args.prefix,
    )
    if args.dry_run:
        print(mapping)
    print(summary)
    print("nothing written" if args.dry_run else f"written: {args.output}")
    return 0
