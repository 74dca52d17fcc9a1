"""Evaluating a detector: which evaluators a dataset has, and a trained model measured with them."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from detectron2 import evaluation as d2
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils import comm
from tabulate import tabulate

from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection import data, windows
from regnet_backbones.detection.architectures import number_of_classes, outputs_of
from regnet_backbones.detection.classes import check_order
from regnet_backbones.detection.coco_evaluator import CocoEvaluator, evaluator_name
from regnet_backbones.detection.config import did_you_mean
from regnet_backbones.detection.config_checks import check_datasets_exist
from regnet_backbones.detection.data_checks.coco import CocoSplit
from regnet_backbones.detection.data_checks.datasets import check_datasets
from regnet_backbones.detection.engines import Engine, build_engine, check_engine, use_exported
from regnet_backbones.detection.matching import BEST_F1
from regnet_backbones.detection.pictures import ImageScorer, PredictionPictures
from regnet_backbones.detection.processes import check_processes, run_in_processes
from regnet_backbones.detection.trained import load_config, load_weights, optimization_of
from regnet_backbones.detection.training.loader import build_test_loader
from regnet_backbones.errors import MissingPackageError, UserError
from regnet_backbones.runs import results as run_results
from regnet_backbones.runs.confusion import Confusion, class_scores, mean_of
from regnet_backbones.runs.device import device_name
from regnet_backbones.runs.trained import Trained

# What measures an output of a model, by the `evaluator_type` of a dataset.
EVALUATORS: dict[str, dict[str, type[d2.DatasetEvaluator]]] = {
    "coco": {"instances": d2.COCOEvaluator},
    "coco_panoptic_seg": {
        "sem_seg": d2.SemSegEvaluator,
        "instances": d2.COCOEvaluator,
        "panoptic_seg": d2.COCOPanopticEvaluator,
    },
    "sem_seg": {"sem_seg": d2.SemSegEvaluator},
    "lvis": {"instances": d2.LVISEvaluator},
    "pascal_voc": {"instances": d2.PascalVOCDetectionEvaluator},
    "cityscapes_instance": {"instances": d2.CityscapesInstanceEvaluator},
    "cityscapes_sem_seg": {"sem_seg": d2.CityscapesSemSegEvaluator},
    "cityscapes_panoptic_seg": {
        "sem_seg": d2.CityscapesSemSegEvaluator,
        "instances": d2.CityscapesInstanceEvaluator,
        "panoptic_seg": d2.COCOPanopticEvaluator,
    },
}
WRITE_FILES = (d2.LVISEvaluator, d2.SemSegEvaluator, d2.COCOPanopticEvaluator)

# Packages that detectron2 does not bring along, by the beginnings of the kinds that need them.
PACKAGES = {"lvis": "lvis", "cityscapes": "cityscapesscripts"}

# What is drawn: the first of these that is measured.
DRAWN = ("panoptic_seg", "instances", "sem_seg")

# Of each task in an evaluation of a training.
COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

# COCO's own keypoints, whose sigmas `COCOEvaluator` knows.
COCO_KEYPOINTS = 17

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How good a detector is.

    Attributes:
        results: in percent, by dataset, task and name of the metric; None where one is not defined.
        table: those of all classes together as text, and where the pictures are.
    """

    results: Mapping[str, run_results.Results]
    table: str


def evaluate(
    trained: Trained,
    output: str | Path,
    *,
    opts: Sequence[str] = (),
    device: str | None = None,
    processes: int = 1,
    val: CocoSplit | None = None,
    images: int | None = None,
    engine: Engine = "torch",
    exported: str | Path | None = None,
    window: int | None = None,
    window_stride: int | None = None,
) -> Evaluation:
    """Evaluate a detector on `DATASETS.TEST`, with the evaluators of its training.

    Writes what `runs.results` describes, a log, and the predictions. Images of the first dataset
    are scored one by one, and drawn.

    Args:
        trained: a detector, as `find_trained` finds it.
        output: the folder to write to.
        opts: keys and values in turn that override the config.
        device: None for that of the config, or the CPU without a GPU.
        processes: how many share the images, each on its own GPU if there are GPUs.
        val: your data, of `read_coco_split`, instead of `DATASETS.TEST`.
        images: how many images of the first dataset, evenly spread, to score at most, None for all
            of all datasets. If there are more, there are no `results`.
        engine: "torch", or "onnxruntime", which runs the exported detector in one CPU process.
        exported: that file, of this checkpoint and config; None to export it for this evaluation.
        window, window_stride: of a `SlidingDetector`, None for the whole image alone.

    Returns:
        The numbers of `results.json`, and the main ones as a table.

    Raises:
        UserError: config, data, checkpoint, engine or file cannot be used, or a package is missing.
    """
    device = check_engine(engine, exported=exported, device=device, processes=processes)
    cfg = load_config(trained, opts=opts, device=device)
    cfg.OUTPUT_DIR = str(output)
    place = (processes, 1, 0, "auto")
    check_processes(*place)
    evaluator_name(cfg)
    val = _use_data(cfg, val)
    if images is not None:
        cfg.DATASETS.TEST = cfg.DATASETS.TEST[:1]
    optimization = optimization_of(cfg)
    settings = {
        "datasets": list(cfg.DATASETS.TEST),
        "json_file": None if val is None else cfg.DATASETS.OWN.VAL_JSON,
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        "test_augmentation": dict(cfg.TEST.AUG) if cfg.TEST.AUG.ENABLED else None,
        "optimization": optimization and asdict(optimization),
        "engine": engine,
        "exported": exported and str(exported),
        **windows.window_settings(window, window_stride),
        "opts": list(opts),
    }
    use_exported(cfg, engine, exported)
    cfg.freeze()
    args, device = (cfg, trained, settings, images, engine, exported), cfg.MODEL.DEVICE
    run_in_processes(_evaluate, args, place, output=cfg.OUTPUT_DIR, device=device)
    results = json.loads((Path(output) / run_results.RESULTS_NAME).read_text())["results"]
    return Evaluation(results, results_tables(results, output))


def evaluated_images(trained: Trained, *, opts: Sequence[str] = ()) -> list[Path]:
    """Return the images that `evaluate` predicts."""
    cfg = load_config(trained, opts=opts, device="cpu")
    _use_data(cfg)
    data.register_own_data(cfg)
    return [file for name in cfg.DATASETS.TEST for file in _image_files(name)]


def average_precisions(
    trained: Trained, exported: str | Path, *, opts: Sequence[str] = ()
) -> dict[str, float]:
    """Evaluate an exported file with onnxruntime; return AP and mIoU in percent by name."""
    with TemporaryDirectory() as folder:
        opts = (*opts, "TEST.PICTURES", "0")
        found = evaluate(trained, folder, opts=opts, engine="onnxruntime", exported=exported)
    return {
        f"{dataset} {task} {metric}": value or 0.0
        for dataset, tasks in found.results.items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
        if metric in ("AP", "mIoU")
    }


def check_evaluators(cfg: CfgNode) -> None:
    """Check that the model can be evaluated on each of `DATASETS.TEST`, before it is trained."""
    evaluator_name(cfg)
    for name in cfg.DATASETS.TEST:
        _evaluators_of(cfg, name)


def check_best_metric(cfg: CfgNode) -> None:
    """Raise UserError for a `TEST.BEST_METRIC` that no evaluation of a training gives.

    Known are the metrics of boxes, masks and keypoints in COCO's evaluation.
    """
    metric, datasets, model = cfg.TEST.BEST_METRIC, cfg.DATASETS.TEST, cfg.MODEL
    kinds = {kind for name in datasets for kind in _evaluators_of(cfg, name).values()}
    is_known = kinds == {d2.COCOEvaluator} and model.META_ARCHITECTURE != "ProposalNetwork"
    if metric in ("", "auto") or "loss" in metric or not is_known:
        return
    tasks = {"bbox": True, "segm": model.MASK_ON, "keypoints": model.KEYPOINT_ON}
    starts = [f"{name}/" for name in datasets] if len(datasets) > 1 else [""]
    parts = product(starts, filter(tasks.get, tasks), COCO_METRICS)
    known = [f"{start}{task}/{name}" for start, task, name in parts]
    of_class = tuple(f"{name}-" for name in known if name.endswith("/AP"))
    if metric not in known and not metric.startswith(of_class):
        names = f"{', '.join(known)}, or {of_class[0]}CLASS"
        meant = did_you_mean(metric, known)
        raise UserError(f"TEST.BEST_METRIC must be one of {names}, got '{metric}'{meant}")


def build_evaluators(
    cfg: CfgNode, dataset_name: str, *, counts_objects: bool = False
) -> d2.DatasetEvaluators:
    """Build the evaluators of a dataset for what the model gives, after what draws its pictures."""
    folder = str(Path(cfg.OUTPUT_DIR) / "inference")
    evaluators: list[d2.DatasetEvaluator] = []
    if cfg.TEST.PICTURES:  # first: detectron2's evaluators change what they are given
        evaluators.append(build_pictures(cfg, dataset_name))
    for kind in _evaluators_of(cfg, dataset_name).values():
        if kind is d2.COCOEvaluator:
            options = {"output_dir": folder, "kpt_oks_sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS}
            options |= {"implementation": evaluator_name(cfg), "counts_objects": counts_objects}
            evaluators.append(CocoEvaluator(_instances_of(dataset_name), **options))
        else:
            options = {"output_dir": folder} if kind in WRITE_FILES else {}
            evaluators.append(kind(dataset_name, **options))
    return d2.DatasetEvaluators(evaluators)


def build_pictures(cfg: CfgNode, dataset_name: str) -> PredictionPictures:
    """Build what draws the pictures of a dataset, of the richest output that is measured."""
    measured = _evaluators_of(cfg, dataset_name)
    output = next(output for output in DRAWN if output in measured)
    sheet = Path(cfg.OUTPUT_DIR) / run_results.PICTURES_FOLDER / f"{dataset_name}.png"
    options = {"count": cfg.TEST.PICTURES, "min_score": cfg.TEST.PICTURES_MIN_SCORE}
    return PredictionPictures(dataset_name, output, sheet, **options)


def results_tables(results: Mapping[str, Mapping], output: str | Path) -> str:
    """Format results, of one dataset or by dataset, as tables, and name the pictures."""
    of_several = any(isinstance(v, Mapping) for each in results.values() for v in each.values())
    lines = []
    for name, tasks in results.items() if of_several else [("", results)]:
        lines.append(f"\n{name}" if name else "")
        best = {task: [m[key] for key in BEST_F1] for task, m in tasks.items() if BEST_F1[0] in m}
        others = {t: {n: v for n, v in m.items() if n not in BEST_F1} for t, m in tasks.items()}
        summary, _ = run_results.tables_of(others)
        for table in summary:
            rows = [(task, *values) for task, values in table.rows]
            text = tabulate(rows, headers=("task, in %", *table.columns), floatfmt=".1f")
            lines.append(f"{text}\n")
        for task, (*percent, score) in best.items():
            if None not in (*percent, score):
                text = "best F1 at IoU 0.5 {:.1f}, precision {:.1f}, recall {:.1f}".format(*percent)
                lines.append(f"{task}: {text}, with --min-score {run_results.score_text(score)}")
    sheets = sorted((Path(output) / run_results.PICTURES_FOLDER).glob("*.png"))
    sheets = [sheet for sheet in sheets if not of_several or sheet.stem in results]
    return "\n".join([*lines, *(f"ground truth next to prediction: {sheet}" for sheet in sheets)])


def _evaluators_of(cfg: CfgNode, dataset_name: str) -> dict[str, type[d2.DatasetEvaluator]]:
    """Return what measures each output of a model on a dataset; raise UserError if it cannot be."""
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", None)
    if kind not in EVALUATORS:
        raise UserError(
            f"evaluator_type of '{dataset_name}' must be one of {', '.join(EVALUATORS)}, got "
            f"{kind!r}; set MetadataCatalog.get('{dataset_name}').evaluator_type"
        )
    package = PACKAGES.get(kind.partition("_")[0])
    if package is not None and find_spec(package) is None:
        raise MissingPackageError(
            f"'{dataset_name}' needs {package}; install it with `pip install {package}`"
        )
    given, measurable = outputs_of(cfg), dict(EVALUATORS[kind])
    if kind == "coco_panoptic_seg" and metadata.get("sem_seg_root") is None:
        del measurable["sem_seg"]  # COCO's combined form has no semantic masks
    measured = {output: each for output, each in measurable.items() if output in given}
    if not measured:
        raise UserError(
            f"'{dataset_name}' evaluates {', '.join(measurable)}, and a "
            f"{cfg.MODEL.META_ARCHITECTURE} predicts {', '.join(given)}; set another dataset in "
            "DATASETS.TEST"
        )
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or COCO_KEYPOINTS
    if "instances" in measured and cfg.MODEL.KEYPOINT_ON and sigmas != keypoints:
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS must have a number for each of {keypoints} keypoints, got "
            f"{sigmas} (empty means COCO's {COCO_KEYPOINTS})"
        )
    return measured


def _instances_of(dataset_name: str) -> str:
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


def _evaluate(
    cfg: CfgNode,
    trained: Trained,
    settings: Mapping[str, object],
    images: int | None,
    engine: Engine,
    exported: str | Path | None,
) -> None:
    """Do the part of this process, and in the first one write the results."""
    data.register_own_data(cfg)  # known to the process that read them, not to those it started
    import_projects(cfg)
    model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    parameters = sum(p.numel() for p in model.parameters())
    first = cfg.DATASETS.TEST[0]
    # An engine's examples; listing the images reads the whole json once more.
    files = [] if engine == "torch" else _image_files(first)
    model = build_engine(cfg, model, engine, exported, files)
    if settings["window"] is not None:
        sides = settings["window"], settings["window_stride"]
        model = windows.SlidingDetector(cfg, model, *sides, limit=windows.COUNTED)
        cfg = windows.in_own_size(cfg)
    seconds: list[float] = []

    def timed(inputs: list[dict]) -> list[dict]:
        start = time.perf_counter()
        outputs = model(inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        return outputs

    scorer = ImageScorer(cfg, first, build_pictures(cfg, first))
    results: dict[str, Mapping] = {}
    confusion: dict[str, dict[str, Confusion]] = {}
    used: set[str] = set()
    for name in cfg.DATASETS.TEST:
        evaluators, built = [scorer] if name == first else [], None
        if images is None or images >= scorer.available:
            built = build_evaluators(cfg, name, counts_objects=True)
            used |= {e.implementation for e in built._evaluators if isinstance(e, CocoEvaluator)}
            evaluators.append(built)
        loader = build_test_loader(cfg, name, images)
        results[name] = d2.inference_on_dataset(timed, loader, d2.DatasetEvaluators(evaluators))
        confusion[name] = {}
        for each in built._evaluators if built and comm.is_main_process() else ():
            if isinstance(each, CocoEvaluator):
                confusion[name] |= each.confusions
            elif isinstance(each, d2.SemSegEvaluator):
                numbers, confusion[name]["sem_seg"] = _count_pixels(each)
                results[name]["sem_seg"] |= numbers
    scored = scorer.finish(
        cfg.OUTPUT_DIR,
        milliseconds=run_results.median_milliseconds(seconds),
        machine=device_name(cfg.MODEL.DEVICE),
        parameters=parameters,
    )
    if comm.is_main_process():
        run_results.write_images(cfg.OUTPUT_DIR, scored)
        settings = {**settings, "evaluator": ", ".join(sorted(used)) or None}
        found = {"results": results, "settings": settings, "confusion": confusion}
        run_results.write_results(cfg.OUTPUT_DIR, trained, **found)


def _count_pixels(evaluator: d2.SemSegEvaluator) -> tuple[dict[str, float], Confusion]:
    """Return what the confusion matrix of detectron2's evaluator says besides its own numbers."""
    names = evaluator._class_names
    counts = evaluator._conf_matrix[:-1, :-1].T  # by prediction and truth, the last without label
    scores = class_scores(counts)
    mean = mean_of(scores["dice"])
    numbers = {"mDice": math.nan if mean is None else 100 * mean}
    for metric, key in (("Dice", "dice"), ("precision", "precision"), ("recall", "recall")):
        values = zip(names, 100 * scores[key], strict=True)
        numbers |= {f"{metric}-{name}": float(value) for name, value in values}
    return numbers, Confusion(names, counts.tolist(), "pixels")


def _image_files(dataset_name: str) -> list[Path]:
    """Return the images of a registered dataset."""
    return [Path(record["file_name"]) for record in DatasetCatalog.get(dataset_name)]


def _use_data(cfg: CfgNode, val: CocoSplit | None = None) -> CocoSplit | None:
    """Check the data that a config is evaluated on; return the COCO json that is registered."""
    val = data.validation_of_training(cfg) if val is None else val
    if val is None:
        check_datasets_exist(cfg, training=False)
        check_evaluators(cfg)
        return None
    if "instances" not in outputs_of(cfg):
        raise UserError(
            f"--val-json needs a detector, this is a {cfg.MODEL.META_ARCHITECTURE}; set a "
            "registered dataset with --opts DATASETS.TEST"
        )
    if val.root is not None and list(val.root) in map(list, cfg.DATASETS.OWN.CATEGORIES):
        val = data.read_coco_split(val.json_file, val.image_root, keep_root=True)
    count, given = number_of_classes(cfg), list(val.categories.values())
    trained = [name for _, name in cfg.DATASETS.OWN.CATEGORIES]
    if count != len(given) or (trained and trained != given):
        raise UserError(
            f"the detector has {count} classes{': ' if trained else ''}{', '.join(trained)}; "
            f"'{val.json_file}' has {len(given)} categories: {', '.join(given)}; pass a json with "
            "the categories of the training data"
        )
    check_order(cfg, given, val.json_file)
    data.use_validation(cfg, val)
    report = check_datasets(
        cfg, images=cfg.DATALOADER.CHECK_IMAGES, train=False, read={data.VAL_NAME: val}
    )
    if report.has_errors:
        raise UserError(f"cannot evaluate on '{val.json_file}':\n{report.errors.summary()}")
    if report.defects:
        logger.warning("%s", report.summary())
    return val
