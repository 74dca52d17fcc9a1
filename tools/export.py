"""Export a network to ONNX, torch.export or TorchScript, and check the file against it.

    python tools/export.py regnety_032 --output regnety_032.onnx --pretrained
    python tools/export.py regnety_032 --output regnety_032.pt2 --pretrained ra_in1k
    python tools/export.py output/demo --output backbone.onnx
    python tools/export.py output/demo --output detector.ts --images 'photos/*.jpg'
    python tools/export.py output/demo_semseg --output segmenter.onnx

The suffix says the format: .onnx, .pt2 (torch.export), .ts or .pt (TorchScript). Height, width and
number of images are free, and each file is compared with the network at two other sizes before it
gets its name. Outputs are c2 to c5 of a name of the zoo; p2 to p6 of a detector, of which the
backbone with FPN is exported; logits of a segmenter. Their input is normalised images, RGB as in
the training (a detector's in the order of INPUT.FORMAT). A whole detector is traced to TorchScript,
which takes one image with values from 0 to 255.
"""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.export import export_command


def main(argv: Sequence[str] | None = None) -> int:
    """Export, and return the exit status."""
    return export_command(argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
