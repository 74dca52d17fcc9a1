"""Write one self-contained HTML page about a training of a detector or a segmenter.

    python tools/report.py output/demo
    python tools/report.py output/demo_semseg --images 50 --output semseg.html
    python tools/report.py output/mine --val-json val.json --val-images images/val
    python tools/report.py output/semseg --opts root /data/ADE20K --device cuda

The page has the curves of the training, the results of the evaluation by class, the best and the
worst predictions among the validation images, speed, configuration, and the command to repeat it.
The first --images validation images are predicted; where these are all, the results are of them,
otherwise those that the training or tools/evaluate.py has left. A run that has not finished is
reported as far as it came. The page needs no network and no file beside itself.
"""

import sys
from collections.abc import Sequence

from regnet_backbones.cli.report import report_command


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and return the exit status."""
    return report_command(argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
