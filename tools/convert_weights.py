"""Convert the weights of a RegNet from any form to any other.

    python tools/convert_weights.py RegNetY-3.2GF_dds_8gpu.pyth regnety_032.safetensors --to timm
    python tools/convert_weights.py timm://regnety_032 regnety_032.pkl --to pycls --dry-run
    python tools/convert_weights.py output/model_final.pth unet.pth --to smp
    python tools/convert_weights.py unet.pth model.pth --into output/model_final.pth
    python tools/convert_weights.py dino.pth teacher.pth --to timm --prefix teacher

The suffix of the new file says its format: .pth, .pt, .bin, .torch, .safetensors, .pyth (pycls's),
.pkl (detectron2's). Forms are dialects (timm, timm_features, torchvision, pycls, classyvision,
vissl, transformers, mmdet) and models (detector: detectron2 on our backbone, detector_pycls: on
detectron2's own RegNet, smp: segmentation-models-pytorch on our encoder, smp_tu: on a tu-
encoder). From a model to the same kind of model all weights are kept, otherwise only the network is
taken. What lies next to the weights (optimizer, iteration, ...) is left out and listed.
"""

import argparse
import sys
from pathlib import Path

from regnet_backbones.cli.failures import reported
from regnet_backbones.files import check_output_folder
from regnet_backbones.weights.conversion import LAYOUTS, convert_file


def main(argv: list[str] | None = None) -> int:
    """Convert, and say what was done."""
    args = _parser().parse_args(argv)
    return reported(lambda: _convert(args))


def _convert(args: argparse.Namespace) -> int:
    """Convert as the command line says."""
    check_output_folder(Path(args.output).parent, name="the folder of the output")
    conversion = convert_file(
        args.source,
        None if args.dry_run else args.output,
        to=args.to,
        into=args.into,
        channel_order=args.channel_order,
        prefix=args.prefix,
        into_prefix=args.into_prefix,
    )
    if args.dry_run:
        print(conversion.mapping())
    print(conversion.summary())
    print("nothing written" if args.dry_run else f"written: {args.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        help="a file, a URL, or a name: timm://NAME.TAG, torchvision://NAME.TAG, pycls://NAME",
    )
    parser.add_argument("output", help="the new file")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--to", choices=LAYOUTS, help="the form to convert to")
    form.add_argument("--into", metavar="FILE", help="a checkpoint whose network is replaced")
    parser.add_argument(
        "--channel-order",
        choices=("RGB", "BGR"),
        help="of the images that the weights saw, where it is not that of their dialect",
    )
    parser.add_argument(
        "--prefix",
        help="which network to take, where the source holds several: keys of the file, the start "
        "of its names, or both, such as teacher, backbone. or teacher.backbone.",
    )
    parser.add_argument("--into-prefix", help="which to replace, where the --into FILE does")
    parser.add_argument("--dry-run", action="store_true", help="print the mapping, write nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
