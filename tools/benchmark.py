"""Compare our extractor with its peers in one run: time, memory, and how far maps differ.

    python tools/benchmark.py
    python tools/benchmark.py --mode forward training --output benchmarks/results/cpu
    python tools/benchmark.py --device cuda --sizes 512 800x1344 --batches 1 8 --roofline
    python tools/benchmark.py --entries 'ours*' timm --threads 1 --runs 50
    python tools/benchmark.py --variants regnety_002 regnety_008 regnety_032 --scaling
    python tools/benchmark.py --mode detector segmenter --reference ours
    python tools/benchmark.py --mode segmenter deeplabv3plus --no-training --dtype fp32 int8

Rows are other projects' extractors of C2 to C5 (timm, torchvision, detectron2's own RegNet, SMP's
`tu-` encoder, ResNet-50), each as it comes and in the forms that make it fast, ours, plain and
optimized, and our exported file in onnxruntime, in int8 (`--dtype int8`) and in OpenVINO; in
`detector`, `segmenter` and `deeplabv3plus` a Mask R-CNN, a U-Net and a DeepLabV3+ on ours and on
the extractor of their framework. All rows of a table get the same images and, for the same
network, the same weights, and take turns: compare within a table only. A compiled row takes a
minute to start. Packages and variants that are not available are left out and named.

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
