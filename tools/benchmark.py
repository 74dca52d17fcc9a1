"""Put our extractor beside its peers in one run: time, memory, and how far maps differ.

    python tools/benchmark.py
    python tools/benchmark.py --mode forward training --output benchmarks/results/cpu
    python tools/benchmark.py --device cuda --sizes 512 800x1344 --batches 1 8 --floors
    python tools/benchmark.py --entries 'ours*' timm --threads 1 --runs 50
    python tools/benchmark.py --variants regnety_002 regnety_008 regnety_032 --growth
    python tools/benchmark.py --mode detector segmenter --reference ours

Rows are other projects' extractors of C2 to C5 (timm, torchvision, detectron2's own RegNet, SMP's
`tu-` encoder, ResNet-50, our network in onnxruntime), each as it comes and in the forms that make
it fast, and ours, plain and optimized; in `detector` and `segmenter` a Mask R-CNN and a U-Net on
ours and on that of their framework. All rows of a table get the same images and, where it is the
same network, the same weights, and take turns: compare within a table only. Compiled rows take a
minute each to begin. What is not installed, or not to be had of a variant, is left out and named.

--output writes every single time with the machine and all versions to PATH.json, and the ratios to
PATH.png. The exit status is 1 if a row failed; the others are measured all the same.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not installed

from benchmarks.command import benchmark_command


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    return benchmark_command(argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
