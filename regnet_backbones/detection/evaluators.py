"""Which evaluators a dataset has, and what draws its pictures."""

from collections.abc import Callable
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

from regnet_backbones.detection.architectures import outputs_of
from regnet_backbones.detection.pictures import (
    InstancePictures,
    PanopticPictures,
    PredictionPictures,
    SemanticPictures,
)
from regnet_backbones.errors import MissingPackageError, UserError

# COCO's own keypoints, whose sigmas `COCOEvaluator` knows.
COCO_KEYPOINTS = 17

Build = Callable[[CfgNode, str, str], DatasetEvaluator]


def _coco(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return COCOEvaluator(
        instances_of(name), output_dir=folder, kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS
    )


def _sem_seg(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return SemSegEvaluator(name, output_dir=folder)


def _panoptic(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return COCOPanopticEvaluator(name, folder)


def _lvis(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return LVISEvaluator(name, output_dir=folder)


def _by_name(evaluator: type[DatasetEvaluator]) -> Build:
    return lambda cfg, name, folder: evaluator(name)


_city_instances = _by_name(CityscapesInstanceEvaluator)
_city_pixels = _by_name(CityscapesSemSegEvaluator)

# By the `evaluator_type` of a dataset and the output of a model that is measured; each is called
# with config, dataset name and folder.
EVALUATORS: dict[str, dict[str, Build]] = {
    "coco": {"instances": _coco},
    "coco_panoptic_seg": {"sem_seg": _sem_seg, "instances": _coco, "panoptic_seg": _panoptic},
    "sem_seg": {"sem_seg": _sem_seg},
    "lvis": {"instances": _lvis},
    "pascal_voc": {"instances": _by_name(PascalVOCDetectionEvaluator)},
    "cityscapes_instance": {"instances": _city_instances},
    "cityscapes_sem_seg": {"sem_seg": _city_pixels},
    "cityscapes_panoptic_seg": {
        "sem_seg": _city_pixels,
        "instances": _city_instances,
        "panoptic_seg": _panoptic,
    },
}

# What is drawn of the datasets of a kind, by the output that it is drawn of.
PICTURES: dict[str, tuple[str, type[PredictionPictures]]] = {
    "coco": ("instances", InstancePictures),
    "lvis": ("instances", InstancePictures),
    "sem_seg": ("sem_seg", SemanticPictures),
    "coco_panoptic_seg": ("panoptic_seg", PanopticPictures),
    "cityscapes_panoptic_seg": ("panoptic_seg", PanopticPictures),
}

# Packages that detectron2 does not bring along, by the kinds that need them.
PACKAGES = {
    "lvis": "lvis",
    "cityscapes_instance": "cityscapesscripts",
    "cityscapes_sem_seg": "cityscapesscripts",
    "cityscapes_panoptic_seg": "cityscapesscripts",
}


def build_evaluators(cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
    """Build the evaluators of a dataset for what the model gives, and what draws its pictures."""
    kind, measured = _kind_and_measured(cfg, dataset_name)
    folder = str(Path(cfg.OUTPUT_DIR) / "inference")
    evaluators = [EVALUATORS[kind][output](cfg, dataset_name, folder) for output in measured]
    drawn, pictures = PICTURES.get(kind, (None, None))
    if cfg.TEST.PICTURES and drawn in measured:
        options = {"count": cfg.TEST.PICTURES}
        if pictures is InstancePictures:
            options["min_score"] = cfg.TEST.PICTURES_MIN_SCORE
        sheet = contact_sheet_path(cfg, dataset_name)
        # First: detectron2's evaluators change what they are given.
        evaluators.insert(0, pictures(dataset_name, sheet, **options))
    return DatasetEvaluators(evaluators)


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
                f"DATASETS.TEST names '{name}', which is not registered; detectron2 has its own "
                "datasets registered and the demo's, such as 'coco_2017_val' and 'shapes_val'"
            )
        _kind_and_measured(cfg, name)


def contact_sheet_path(cfg: CfgNode, dataset_name: str) -> Path:
    """Return where the pictures of a dataset's predictions are written."""
    return Path(cfg.OUTPUT_DIR) / "pictures" / f"{dataset_name}.png"


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


def _kind_and_measured(cfg: CfgNode, dataset_name: str) -> tuple[str, list[str]]:
    """Return the kind of a dataset and the outputs that are measured; raise where none can be."""
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", None)
    if kind not in EVALUATORS:
        raise UserError(
            f"dataset '{dataset_name}' has evaluator_type {kind!r}, known are "
            f"{', '.join(EVALUATORS)}; set it with MetadataCatalog.get(name).evaluator_type"
        )
    package = PACKAGES.get(kind)
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
    if "instances" in measured and cfg.MODEL.KEYPOINT_ON:
        _check_sigmas(cfg)
    return kind, measured


def _check_sigmas(cfg: CfgNode) -> None:
    """Raise ValueError where COCO's evaluation would have no sigma for each keypoint."""
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or COCO_KEYPOINTS
    if sigmas != keypoints:
        raise UserError(
            f"the model has {keypoints} keypoints and the evaluation {sigmas} sigmas; set "
            f"TEST.KEYPOINT_OKS_SIGMAS to {keypoints} numbers (empty are COCO's for its "
            f"{COCO_KEYPOINTS})"
        )
