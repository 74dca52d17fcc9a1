"""Design your own RegNet: look at one, fit, sample, search, compare and scale.

    python tools/design.py list regnety --image-size 640
    python tools/design.py show regnety_032 --image-size 800x1333 --picture regnety_032.png
    python tools/design.py show --w0 48 --wa 28 --wm 1.8 --depth 7 --group-width 16 --build
    python tools/design.py fit --widths 256 512 1024 2048 --depths 3 4 6 3 --picture resnet50.png
    python tools/design.py sample --space RegNetY --count 100 --flops 400M --output y_400mf
    python tools/design.py search --space RegNetY --image-size 640 --latency-ms 5 --output found
    python tools/design.py search --flops 0.8G --params 6.3M: --measure-size 512 \\
        --reference regnety_008 --output found
    python tools/design.py edf x_400mf.json any_400mf.json --column activations --output edf.png
    python tools/design.py scale regnety_008 --factor 4 --format detectron2 --write my_4x.yaml

A design is a name, its numbers, or a row of results (--from found.json --index 3). --format gives
it to Detectron2 (MODEL.REGNET), SMP (register_encoder) or timm (RegNetCfg), --build builds it there
at once. Bounds are 400M (within 5%), 380M:420M, 6.3M: (at least) or :8M (at most). Each command
explains itself: python tools/design.py search --help. docs/design.md walks through all of it.
"""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.design import design_command


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit status."""
    return design_command(argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
