"""What `tools/evaluate.py` found earlier."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from regnet_backbones.inference.commands import EVALUATION_FOLDER
from regnet_backbones.inference.report import RESULTS_NAME
from regnet_backbones.report.runs import Run


@dataclass(frozen=True)
class Recorded:
    """Results of an evaluation as `inference.report.write_results` wrote them."""

    source: str
    results: Mapping[str, object]


def recorded_results(run: Run) -> Recorded | None:
    """Return the results in the run's folder, None where there are none of its checkpoint."""
    path = run.folder / EVALUATION_FOLDER / RESULTS_NAME
    if run.trained is None or not path.is_file():
        return None
    content = json.loads(path.read_text())
    checkpoint = run.trained.checkpoint
    of_another = content["checkpoint"].rpartition("/")[2] != checkpoint.name
    if of_another or path.stat().st_mtime < checkpoint.stat().st_mtime:
        return None
    return Recorded(f"found by tools/evaluate.py with {checkpoint.name}", content["results"])
