"""Which implementation computes COCO's numbers: pycocotools, faster-coco-eval, or detectron2's.

faster-coco-eval counts as pycocotools does, in C++ and several threads. It is used if it is
installed, for boxes and masks; keypoints are always pycocotools'.
"""

import logging
from contextlib import nullcontext, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from unittest.mock import patch

from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regnet_backbones.detection.matching import count_objects, max_predictions
from regnet_backbones.errors import MissingPackageError, UserError
from regnet_backbones.runs.confusion import Confusion

# Values of TEST.EVALUATOR, and names in results.json. Detectron2's own is in its extension.
AUTO, PYCOCOTOOLS, FASTER, DETECTRON2 = "auto", "pycocotools", "faster-coco-eval", "detectron2"
CHOICES = (AUTO, PYCOCOTOOLS, FASTER)

logger = logging.getLogger(__name__)


def evaluator_name(cfg: CfgNode) -> str:
    """Return what computes numbers of boxes and masks; raise UserError if it is not installed."""
    wanted = cfg.TEST.EVALUATOR
    if wanted not in CHOICES:
        raise UserError(f"TEST.EVALUATOR must be one of {', '.join(CHOICES)}, got '{wanted}'")
    installed = find_spec("faster_coco_eval") is not None
    if wanted == FASTER and not installed:
        raise MissingPackageError(
            "TEST.EVALUATOR is faster-coco-eval, which is not installed; install it with "
            "`pip install 'regnet-backbones[coco]'`",
            name="faster_coco_eval",
        )
    if wanted != AUTO:
        return wanted
    if installed:
        return FASTER
    compiled = coco_evaluation.COCOeval_opt.__module__.startswith("detectron2")
    return DETECTRON2 if compiled else PYCOCOTOOLS


class CocoEvaluator(COCOEvaluator):
    """Detectron2's evaluator with a choice of what computes the numbers, one of `evaluator_name`.

    `counts_objects`: whether results of boxes and masks include those of `count_objects`, whose
    matrices are then in `confusions` by task.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        implementation: str,
        counts_objects: bool = False,
        **options: object,
    ) -> None:
        super().__init__(dataset_name, use_fast_impl=implementation != PYCOCOTOOLS, **options)
        if implementation == FASTER and not _has_numbers(self._coco_api):
            logger.warning(
                "using pycocotools for '%s': faster-coco-eval needs ids that are whole numbers",
                dataset_name,
            )
            implementation, self._use_fast_impl = PYCOCOTOOLS, False
        self.implementation = implementation
        self._max_dets_per_image = [1, 10, max_predictions(self._coco_api)]
        self._counts_objects = counts_objects
        self.confusions: dict[str, Confusion] = {}

    def _eval_predictions(self, predictions: list, img_ids: list | None = None) -> None:
        logger.info("computing COCO metrics with %s", self.implementation)
        # Detectron2's function looks implementations up by these names, the second one for more
        # than 100 predictions of a class in an image.
        names = dict.fromkeys(("COCOeval_opt", "COCOevalMaxDets"), _faster)
        is_faster = self.implementation == FASTER
        fast = patch.multiple(coco_evaluation, **names) if is_faster else nullcontext()
        with fast, redirect_stdout(StringIO()) as printed:
            super()._eval_predictions(predictions, img_ids)
        logger.debug("%s", printed.getvalue())
        if not self._counts_objects:
            return
        # Their categories are those of the dataset now.
        found = [each for of_image in predictions for each in of_image["instances"]]
        for task in ("bbox", "segm"):
            if task in self._results:
                args = (self._coco_api, found, task, self._metadata.thing_classes)
                numbers, self.confusions[task] = count_objects(*args, image_ids=img_ids)
                self._results[task] |= numbers


def _has_numbers(dataset: COCO) -> bool:
    ids = (key for keys in (dataset.imgs, dataset.cats, dataset.anns) for key in keys)
    return all(type(key) is int for key in ids)


def _faster(truth: COCO, found: COCO, task: str) -> COCOeval:
    """Return what evaluates a task; keypoints are left to pycocotools."""
    if task == "keypoints":
        return COCOeval(truth, found, task)
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    return COCOeval_faster(truth, found, task, print_function=print)
