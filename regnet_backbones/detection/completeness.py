"""Detectron2's checkpointer for the tools: it reads safely, and all weights or an error.

Detectron2 itself unpickles a `.pkl` as it is, and only logs what a checkpoint lacks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _filter_reused_missing_keys, _IncompatibleKeys
from torch import nn

from regnet_backbones.errors import UserError
from regnet_backbones.weights.loading import extractors
from regnet_backbones.weights.state_dicts import as_tensors
from regnet_backbones.weights.unpickling import read_content

# How many names of weights an error lists.
LISTED = 5


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which runs nothing of a file, whatever the model is."""

    def _load_file(self, filename: str) -> dict[str, object]:
        if extractors(self.model):
            return super()._load_file(filename)  # by `adapters.detectron2_checkpoint`
        content = read_content(Path(filename))
        content = content if isinstance(content, Mapping) else {"model": content}
        author, state, kind = None, content.get("model", content), Path(filename).suffix
        if kind == ".pyth":
            author, state = "pycls", content.get("model_state")
        elif kind == ".pkl" and not {"model", "__author__"} <= content.keys():
            author, state = "Caffe2", content.get("blobs", content)
        if not isinstance(state, Mapping):
            raise UserError(f"{filename} holds no state dict (names to tensors)")
        state = as_tensors(state, filename)
        if author is None:
            return {**(content if "model" in content else {}), "model": state}
        useless = ("num_batches_tracked", "_momentum")
        state = {name: value for name, value in state.items() if not name.endswith(useless)}
        return {"model": state, "__author__": author, "matching_heuristics": True}


class WholeCheckpointer(SafeCheckpointer):
    """A checkpointer for which weights that detectron2 would leave random are an error."""

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
    raise UserError(
        f"the checkpoint is not of the model that the config describes; of the model's "
        f"weights {'; '.join(problems)}. Give the config that it was trained with, or the "
        "overrides that it was trained with (--opts of evaluate and predict)"
    )


def _first(items: Sequence[str]) -> str:
    """Name the first few of many."""
    return ", ".join(items[:LISTED]) + (", ..." if len(items) > LISTED else "")
