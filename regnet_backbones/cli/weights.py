"""`convert-weights`: the weights of a RegNet from any form to any other."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from regnet_backbones.cli.command_lines import command_parser
from regnet_backbones.cli.run import run_command
from regnet_backbones.files import check_output_folder

DESCRIPTION = """\
Convert the weights of a RegNet from any form to any other.

    %(prog)s RegNetY-3.2GF_dds_8gpu.pyth regnety_032.safetensors --to timm
    %(prog)s timm://regnety_032 regnety_032.pkl --to pycls --dry-run
    %(prog)s output/model_final.pth unet.pth --to smp
    %(prog)s unet.pth model.pth --into output/model_final.pth
    %(prog)s dino.pth teacher.pth --to timm --prefix teacher

The suffix of the new file is its format: .pth, .pt, .bin, .torch, .safetensors, .pyth (of pycls),
.pkl (of Detectron2). Forms are dialects (timm, timm_features, torchvision, pycls, classyvision,
vissl, transformers, mmdet) and models (detector: Detectron2 on our backbone, detector_pycls: on
Detectron2's own RegNet, smp: segmentation-models-pytorch on our encoder, smp_tu: on a tu- encoder).
From a model to the same kind of model all weights are kept, otherwise only those of the network.
Anything else in the file (optimizer, iteration, ...) is left out and listed.
"""


def convert_weights(argv: Sequence[str], prog: str) -> int:
    """Convert, and print what was done."""
    args = convert_parser(prog).parse_args(argv)
    return run_command(lambda: _convert(args))


def convert_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `convert-weights`."""
    parser = command_parser(prog, DESCRIPTION)
    parser.add_argument(
        "source",
        help="a file, a URL, or a name: timm://NAME.TAG, torchvision://NAME.TAG, pycls://NAME",
    )
    parser.add_argument("output", help="the new file")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--to", metavar="FORM", help="the form to convert to")
    form.add_argument("--into", metavar="FILE", help="a checkpoint whose network is replaced")
    parser.add_argument(
        "--channel-order",
        choices=("RGB", "BGR"),
        help="of the images that the weights were trained on, if it is not that of their dialect",
    )
    parser.add_argument(
        "--prefix",
        help="which network to take from a source of several: keys of the file, the start of its "
        "names, or both, such as teacher, backbone. or teacher.backbone.",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the mapping, write nothing")
    return parser


def _convert(args: argparse.Namespace) -> int:
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
