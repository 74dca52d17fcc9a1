"""Results of an evaluation as tables to print."""

from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from tabulate import tabulate

from regnet_backbones.detection.evaluators import contact_sheet_path

AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PROPOSAL_COLUMNS = ("AR@100", "ARs@100", "ARm@100", "ARl@100", "AR@1000")
SEMANTIC_COLUMNS = ("mIoU", "fwIoU", "mACC", "pACC")
CITYSCAPES_COLUMNS = ("IoU", "iIoU", "IoU_sup", "iIoU_sup")
PANOPTIC_COLUMNS = ("PQ", "SQ", "RQ")

# How the keys of the panoptic metrics end.
PANOPTIC_ROWS = {"all": "", "things": "_th", "stuff": "_st"}

# By name; None where one is not defined.
Metrics = Mapping[str, float | None]


def results_tables(cfg: CfgNode, results: Mapping[str, Mapping]) -> str:
    """Format results as tables, and name the pictures.

    Args:
        cfg: of the run.
        results: in the form of detectron2's `Trainer.test`: metrics by task, of several datasets
            by dataset and task.
    """
    names = cfg.DATASETS.TEST
    by_dataset = {names[0]: results} if len(names) == 1 else results
    lines = []
    for name in names:
        lines.append(f"\n{name}")
        lines.append("\n\n".join(_tables(by_dataset.get(name, {}))))
        sheet = contact_sheet_path(cfg, name)
        if sheet.is_file():
            lines.append(f"ground truth beside prediction: {sheet}")
    return "\n".join(lines)


def _tables(tasks: Mapping[str, Metrics]) -> list[str]:
    """Format the tasks of a dataset, those with the same metrics in one table."""
    tasks, tables = dict(tasks), []
    semantic = tasks.pop("sem_seg", None)
    panoptic = tasks.pop("panoptic_seg", None)
    proposals = tasks.pop("box_proposals", None)
    if semantic and "mIoU" not in semantic:  # of Cityscapes' own scripts
        tables.append(_table({"sem_seg": semantic}, CITYSCAPES_COLUMNS))
    elif semantic:
        tables += [_per_class_table(semantic), _table({"sem_seg": semantic}, SEMANTIC_COLUMNS)]
    if proposals:
        tables.append(_table({"box_proposals": proposals}, PROPOSAL_COLUMNS))
    if tasks:
        tables.append(_table(tasks, AP_COLUMNS))
    if panoptic:
        tables.append(_panoptic_table(panoptic))
    return tables


def _table(tasks: Mapping[str, Metrics], columns: Sequence[str]) -> str:
    """Format some metrics, a row for each task."""
    rows = [[task, *(metrics.get(c) for c in columns)] for task, metrics in tasks.items()]
    return tabulate(rows, headers=("task", *columns), floatfmt=".1f")


def _per_class_table(metrics: Metrics) -> str:
    """Format what detectron2's semantic evaluator says of each class."""
    names = [key.removeprefix("IoU-") for key in metrics if key.startswith("IoU-")]
    rows = [[name, metrics[f"IoU-{name}"], metrics[f"ACC-{name}"]] for name in names]
    return tabulate(rows, headers=("class", "IoU", "ACC"), floatfmt=".1f")


def _panoptic_table(metrics: Metrics) -> str:
    """Format panoptic quality and its factors, of all classes, of things, and of stuff."""
    rows = [
        [name, *(metrics.get(f"{column}{ending}") for column in PANOPTIC_COLUMNS)]
        for name, ending in PANOPTIC_ROWS.items()
    ]
    return tabulate(rows, headers=("panoptic_seg", *PANOPTIC_COLUMNS), floatfmt=".1f")
