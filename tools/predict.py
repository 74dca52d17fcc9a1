"""Predict images with what was trained: a detector (detectron2) or a segmenter (Lightning and SMP).

    python tools/predict.py output/demo photos/ --output predictions
    python tools/predict.py output/mine photos/ --val-json val.json --min-score 0.7
    python tools/predict.py output/semseg 'photos/*.jpg' one.png --window 512
    python tools/predict.py output/demo photos/ --optimize
    python tools/predict.py output/demo photos/ --dtype bfloat16 --compile

Below --output are overlays/ with pictures to look at; of a model that gives pixels classes labels/
with one PNG per image, whose values are class numbers from 0, and classes.txt with their names; of
a detector predictions.json in COCO's results format, with masks or keypoints if it gives them; of a
panoptic model panoptic/ and panoptic.json in COCO's. A detector trained on data of one's own takes
the names of its classes from --val-json.
"""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.models import predict_command


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, and return the exit status."""
    return predict_command(argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
