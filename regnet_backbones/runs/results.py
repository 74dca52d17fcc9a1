"""Results as JSON files that are whole, and valid for every reader."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from regnet_backbones.files import write_whole
from regnet_backbones.runs.trained import Kind, Trained

RESULTS_NAME = "results.json"

# Whose versions decide what a number means.
VERSIONED: dict[Kind, tuple[str, ...]] = {
    "detector": ("regnet_backbones", "torch", "detectron2"),
    "segmenter": ("regnet_backbones", "torch", "lightning", "segmentation_models_pytorch"),
}


def write_results(
    folder: str | Path,
    trained: Trained,
    *,
    results: Mapping[str, object],
    settings: Mapping[str, object],
) -> Path:
    """Write `results.json` of an evaluation, of the same outer form for both kinds of model.

    Its keys are `kind`, `checkpoint`, `results`, `settings` (what decides the results beside
    checkpoint and data), and `versions`. Numbers are as the evaluation gave them: detectron2's
    in percent, a segmenter's from 0 to 1.

    Returns:
        The path of the file.
    """
    path = Path(folder) / RESULTS_NAME
    content = {
        "kind": trained.kind,
        "checkpoint": str(trained.checkpoint),
        "results": results,
        "settings": settings,
        "versions": {name: import_module(name).__version__ for name in VERSIONED[trained.kind]},
    }
    write_json(path, content)
    return path


def write_json(path: str | Path, content: Mapping[str, object] | Sequence[object]) -> None:
    """Write JSON whole or not at all; numbers that JSON has not (NaN, infinite) become null."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    write_whole(Path(path), lambda file: file.write(text.encode()))


def _plain(value: object) -> object:
    """Return a value with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
