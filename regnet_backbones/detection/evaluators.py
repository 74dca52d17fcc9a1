"""Which evaluators a dataset has, what draws its pictures, and results as tables."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from tabulate import tabulate

from regnet_backbones.detection.architectures import outputs_of
from regnet_backbones.detection.pictures import PredictionPictures
from regnet_backbones.errors import MissingPackageError, UserError
from regnet_backbones.runs.results import tables_of

# COCO's own keypoints, whose sigmas `COCOEvaluator` knows.
COCO_KEYPOINTS = 17


def _coco(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return COCOEvaluator(
        instances_of(name), output_dir=folder, kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS
    )


def _of(evaluator: type[DatasetEvaluator]) -> Callable[[CfgNode, str, str], DatasetEvaluator]:
    return lambda cfg, name, folder: evaluator(name, output_dir=folder)


def _without_folder(
    evaluator: type[DatasetEvaluator],
) -> Callable[[CfgNode, str, str], DatasetEvaluator]:
    return lambda cfg, name, folder: evaluator(name)


_sem_seg, _panoptic = _of(SemSegEvaluator), _of(COCOPanopticEvaluator)
_city_objects = _without_folder(CityscapesInstanceEvaluator)
_city_pixels = _without_folder(CityscapesSemSegEvaluator)

# By the `evaluator_type` of a dataset and the output of a model that is measured; each is called
# with config, dataset name and folder.
EVALUATORS: dict[str, dict[str, Callable[[CfgNode, str, str], DatasetEvaluator]]] = {
    "coco": {"instances": _coco},
    "coco_panoptic_seg": {"sem_seg": _sem_seg, "instances": _coco, "panoptic_seg": _panoptic},
    "sem_seg": {"sem_seg": _sem_seg},
    "lvis": {"instances": _of(LVISEvaluator)},
    "pascal_voc": {"instances": _without_folder(PascalVOCDetectionEvaluator)},
    "cityscapes_instance": {"instances": _city_objects},
    "cityscapes_sem_seg": {"sem_seg": _city_pixels},
    "cityscapes_panoptic_seg": {
        "sem_seg": _city_pixels,
        "instances": _city_objects,
        "panoptic_seg": _panoptic,
    },
}

# What is drawn: the first of these that is measured.
DRAWN = ("panoptic_seg", "instances", "sem_seg")

# Packages that detectron2 does not bring along, by the beginnings of the kinds that need them.
PACKAGES = {"lvis": "lvis", "cityscapes": "cityscapesscripts"}


def build_evaluators(cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
    """Build the evaluators of a dataset for what the model gives, and what draws its pictures."""
    kind, measured = _kind_and_measured(cfg, dataset_name)
    folder = str(Path(cfg.OUTPUT_DIR) / "inference")
    evaluators = [EVALUATORS[kind][output](cfg, dataset_name, folder) for output in measured]
    if cfg.TEST.PICTURES:
        # First: detectron2's evaluators change what they are given.
        evaluators.insert(0, build_pictures(cfg, dataset_name))
    return DatasetEvaluators(evaluators)


def build_pictures(cfg: CfgNode, dataset_name: str) -> PredictionPictures:
    """Build what draws the pictures of a dataset, of the richest output that is measured."""
    _, measured = _kind_and_measured(cfg, dataset_name)
    output = next(output for output in DRAWN if output in measured)
    options = {"count": cfg.TEST.PICTURES, "min_score": cfg.TEST.PICTURES_MIN_SCORE}
    return PredictionPictures(dataset_name, output, _sheet_of(cfg, dataset_name), **options)


def check_evaluators(cfg: CfgNode) -> None:
    """Check that the model can be evaluated on each of `DATASETS.TEST`, before it is trained.

    Raises:
        UserError: a dataset is not registered, no evaluator is known for its `evaluator_type`, its
            package is not installed, the model gives nothing that is measured there, or the number
            of sigmas is not that of the keypoints.
    """
    for name in cfg.DATASETS.TEST:
        if name not in DatasetCatalog.list():
            raise UserError(
                f"DATASETS.TEST names '{name}', which is not registered; name a dataset of "
                "detectron2 or of the demo, such as 'coco_2017_val' or 'shapes_val', or pass your "
                "own data with --val-json and --val-images"
            )
        _kind_and_measured(cfg, name)


def instances_of(dataset_name: str) -> str:
    """Return a name whose metadata are those of the dataset's instances alone.

    In COCO's combined panoptic form `thing_classes` names all classes, as drawing wants it, and
    `COCOEvaluator` wants those of the instances. Detectron2 has them first.
    """
    metadata = MetadataCatalog.get(dataset_name)
    names, ids = metadata.get("thing_classes"), metadata.get("thing_dataset_id_to_contiguous_id")
    if not names or not ids or len(names) == len(ids):
        return dataset_name
    derived = f"{dataset_name}_instances"
    MetadataCatalog.get(derived).set(
        json_file=metadata.json_file,
        thing_classes=names[: len(ids)],
        thing_dataset_id_to_contiguous_id=ids,
    )
    return derived


def results_tables(cfg: CfgNode, results: Mapping[str, Mapping]) -> str:
    """Format results of detectron2's `Trainer.test` as tables, and name the pictures.

    Single classes are listed of semantic tasks only: detectron2 logs the others.
    """
    names: Sequence[str] = cfg.DATASETS.TEST
    by_dataset = {names[0]: results} if len(names) == 1 else results
    lines = []
    for name in names:
        lines.append(f"\n{name}")
        tasks = by_dataset.get(name, {})
        summary, _ = tables_of(tasks)
        _, classes = tables_of({task: m for task, m in tasks.items() if "AP" not in m})
        tables = [("task", table) for table in summary]
        if classes is not None:
            tables.insert(0, ("class", classes))
        for heading, table in tables:
            rows = [(row, *values) for row, values in table.rows]
            text = tabulate(rows, headers=(heading, *table.columns), floatfmt=".1f")
            lines.append(f"{text}\n")
        sheet = _sheet_of(cfg, name)
        if sheet.is_file():
            lines.append(f"ground truth next to prediction: {sheet}")
    return "\n".join(lines)


def _sheet_of(cfg: CfgNode, dataset_name: str) -> Path:
    """Return where the pictures of a dataset's predictions are written."""
    return Path(cfg.OUTPUT_DIR) / "pictures" / f"{dataset_name}.png"


def _kind_and_measured(cfg: CfgNode, dataset_name: str) -> tuple[str, list[str]]:
    """Return the kind of a dataset and the outputs that are measured; raise where none can be."""
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", None)
    if kind not in EVALUATORS:
        raise UserError(
            f"dataset '{dataset_name}' has evaluator_type {kind!r}, known are "
            f"{', '.join(EVALUATORS)}; set it with MetadataCatalog.get(name).evaluator_type"
        )
    package = PACKAGES.get(kind.partition("_")[0])
    if package is not None and find_spec(package) is None:
        raise MissingPackageError(
            f"evaluating on '{dataset_name}' needs the package {package}, which is not installed; "
            f"install it with: pip install {package}"
        )
    given, measurable = outputs_of(cfg), list(EVALUATORS[kind])
    if kind == "coco_panoptic_seg" and metadata.get("sem_seg_root") is None:
        measurable.remove("sem_seg")  # COCO's combined form has no semantic masks
    measured = [output for output in measurable if output in given]
    if not measured:
        raise UserError(
            f"a {cfg.MODEL.META_ARCHITECTURE} gives {', '.join(given)}, and what can be measured "
            f"on '{dataset_name}' is {', '.join(measurable)}; name another dataset in "
            "DATASETS.TEST"
        )
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or COCO_KEYPOINTS
    if "instances" in measured and cfg.MODEL.KEYPOINT_ON and sigmas != keypoints:
        raise UserError(
            f"the model has {keypoints} keypoints and the evaluation {sigmas} sigmas; set "
            f"TEST.KEYPOINT_OKS_SIGMAS to {keypoints} numbers (empty are COCO's for its "
            f"{COCO_KEYPOINTS})"
        )
    return kind, measured
