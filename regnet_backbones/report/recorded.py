"""What `tools/evaluate.py` found earlier."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from regnet_backbones.cli.models import EVALUATION_FOLDER
from regnet_backbones.report.runs import Run
from regnet_backbones.runs.results import RESULTS_NAME


@dataclass(frozen=True)
class Recorded:
    """Results of an evaluation as `inference.report.write_results` wrote them."""

    source: str
    results: Mapping[str, object]


def no_metrics(run: Run) -> str:
    """Say that a page has no metrics, and how it would."""
    command = shlex.join(["python", "tools/evaluate.py", str(run.folder)])
    return f"There are no metrics of these data: `{command}`, with the same options, finds them."


def recorded_results(run: Run, settings: Mapping[str, object]) -> Recorded | None:
    """Return the results in the run's folder, None where there are none of checkpoint and data.

    Args:
        run: whose checkpoint they must be of.
        settings: what tells the data apart, as `results.json` has it.
    """
    path = run.folder / EVALUATION_FOLDER / RESULTS_NAME
    if run.trained is None or not path.is_file():
        return None
    content = json.loads(path.read_text())
    checkpoint = run.trained.checkpoint
    of_another = content["checkpoint"].rpartition("/")[2] != checkpoint.name
    of_another |= any(content["settings"].get(key) != value for key, value in settings.items())
    if of_another or path.stat().st_mtime < checkpoint.stat().st_mtime:
        return None
    return Recorded(f"found by tools/evaluate.py with {checkpoint.name}", content["results"])
