"""Results of an evaluation as tables to print."""

from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from tabulate import tabulate

from regnet_backbones.detection.evaluators import contact_sheet_path

# Tasks that have other metrics than AP.
COLUMNS = {
    "box_proposals": ("AR@100", "ARs@100", "ARm@100", "ARl@100", "AR@1000"),
    "sem_seg": ("mIoU", "fwIoU", "mACC", "pACC"),
    "cityscapes": ("IoU", "iIoU", "IoU_sup", "iIoU_sup"),
}
AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PANOPTIC_COLUMNS = ("PQ", "SQ", "RQ")

# How the keys of the panoptic metrics end.
PANOPTIC_ROWS = {"all": "", "things": "_th", "stuff": "_st"}


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
            lines.append(f"ground truth next to prediction: {sheet}")
    return "\n".join(lines)


def _tables(tasks: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Format the tasks of a dataset, those with AP in one table."""
    tables, with_ap = [], []
    for task, metrics in tasks.items():
        if task == "panoptic_seg":
            rows = [
                [name, *(metrics.get(f"{column}{ending}") for column in PANOPTIC_COLUMNS)]
                for name, ending in PANOPTIC_ROWS.items()
            ]
            tables.append(_table((task, *PANOPTIC_COLUMNS), rows))
        elif task in COLUMNS:
            names = [key.removeprefix("IoU-") for key in metrics if key.startswith("IoU-")]
            rows = [[name, metrics[f"IoU-{name}"], metrics[f"ACC-{name}"]] for name in names]
            if rows:
                tables.append(_table(("class", "IoU", "ACC"), rows))
            columns = COLUMNS["cityscapes" if task == "sem_seg" and "mIoU" not in metrics else task]
            tables.append(_table((task, *columns), [[task, *map(metrics.get, columns)]]))
        else:
            with_ap.append([task, *map(metrics.get, AP_COLUMNS)])
    if with_ap:
        tables.append(_table(("task", *AP_COLUMNS), with_ap))
    return tables


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return tabulate(rows, headers=headers, floatfmt=".1f")
