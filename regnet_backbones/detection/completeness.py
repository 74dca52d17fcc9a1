"""Whether a checkpoint has every weight of a model; detectron2 only logs what it lacks."""

from collections.abc import Sequence

from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _filter_reused_missing_keys, _IncompatibleKeys
from torch import nn

# How many names of weights an error lists.
LISTED = 5


class WholeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, for which weights that it would leave random are an error."""

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        super()._log_incompatible_keys(incompatible)
        check_complete(self.model, incompatible)


def check_complete(model: nn.Module, incompatible: _IncompatibleKeys) -> None:
    """Check what detectron2's checkpointer found when it loaded a checkpoint.

    Raises:
        ValueError: the checkpoint lacks weights of the model, or has them in other shapes.
    """
    lacking = [
        name
        for name in sorted(_filter_reused_missing_keys(model, incompatible.missing_keys))
        if not name.endswith("num_batches_tracked")  # counts only, and zoo files have none
    ]
    unlike = [
        f"{name} is {in_file} in the checkpoint and {in_model} in the model"
        for name, in_file, in_model in incompatible.incorrect_shapes
    ]
    if not (lacking or unlike):
        return
    problems = [f"{len(unlike)} have another shape: {_first(unlike)}"] if unlike else []
    problems += [f"{len(lacking)} are not in it: {_first(lacking)}"] if lacking else []
    raise ValueError(
        f"the checkpoint is not of the model that the config describes; of the model's "
        f"weights {'; '.join(problems)}. Give the config that it was trained with, or the "
        "overrides that it was trained with (--opts of evaluate and predict)"
    )


def _first(items: Sequence[str]) -> str:
    """Name the first few of many."""
    return ", ".join(items[:LISTED]) + (", ..." if len(items) > LISTED else "")
