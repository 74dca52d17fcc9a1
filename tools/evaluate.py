"""Evaluate what was trained: a detector (detectron2) or a segmenter (Lightning and SMP).

    python tools/evaluate.py output/demo
    python tools/evaluate.py output/demo/model_final.pth --opts TEST.AUG.ENABLED True
    python tools/evaluate.py output/mine --val-json val.json --val-images images/val
    python tools/evaluate.py output/semseg --window 512 --flip --scales 0.5 0.75 1.0 1.25 1.5 1.75
    python tools/evaluate.py output/semseg/checkpoints/best.ckpt --opts root /data/ADE20K
    python tools/evaluate.py output/demo --optimize
    python tools/evaluate.py output/demo --dtype bfloat16 --compile

The numbers are printed, and written to `results.json` in the folder `evaluation` of the run.
A detector trained on data of one's own needs --val-json and --val-images; a segmenter is evaluated
on the data of its training, which --opts moves or changes.
"""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.models import evaluate_command


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, and return the exit status."""
    return evaluate_command(argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
