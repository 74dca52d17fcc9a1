"""`MODEL.WEIGHTS: timm://NAME.TAG`: timm's pretrained RegNets in detectron2's checkpointer.

A path handler of detectron2's `PathManager` fetches the weights through timm (which caches them)
and leaves a file that the checkpointer matches to a detector by name: `stem.conv.weight` to
`backbone.bottom_up.stem.conv.weight`. The parameters of our backbone carry timm's names.
"""

import logging
import os
import tempfile
from pathlib import Path
from types import ModuleType

from iopath.common.file_io import PathHandler, get_cache_dir

from regnet_backbones import zoo

PREFIX = "timm://"

logger = logging.getLogger(__name__)


class TimmWeightsHandler(PathHandler):
    """Resolve `timm://regnety_032.ra_in1k`, or `timm://regnety_032` for the default tag."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        variant, weights = weights_of(path)
        file = Path(get_cache_dir()) / "timm" / f"{variant.name}.{weights.tag}.pth"
        if force or not file.is_file():
            _save_for_detectron2(_fetch(path, weights), file)
        logger.info("weights %s, licence %s, cached in %s", path, weights.licence, file)
        return str(file)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object) -> object:
        if mode not in ("r", "rb"):
            raise ValueError(f"{path} can only be read, got mode {mode!r}")
        return open(self._get_local_path(path), "rb")


def weights_of(path: str) -> tuple[zoo.Variant, zoo.Weights]:
    """Return the row of the zoo that a `timm://` path names.

    Raises:
        ValueError: the name is no RegNet of the zoo, or it has no such weights.
    """
    name, _, tag = path.removeprefix(PREFIX).partition(".")
    variant = zoo.get(name)
    if not variant.weights:
        raise ValueError(f"there are no pretrained weights for {variant.name}")
    tag = tag or variant.default_tag
    if tag not in variant.weights:
        raise ValueError(
            f"'{path}' names no weights; {variant.name} has "
            + ", ".join(f"{PREFIX}{variant.name}.{t}" for t in variant.weights)
        )
    return variant, variant.weights[tag]


def register_on_import(file_io: ModuleType) -> None:
    """Register the handler in the PathManager of `detectron2.utils.file_io`."""
    file_io.PathManager.register_handler(TimmWeightsHandler(), allow_override=True)


def _fetch(path: str, weights: zoo.Weights) -> dict:
    """Fetch a state dict through timm's hub client."""
    from timm.models import load_state_dict_from_hf

    try:
        return load_state_dict_from_hf(weights.hub_id)
    except Exception as error:  # the hub client raises errors of several libraries
        raise OSError(
            f"could not fetch the weights {path} ('{weights.hub_id}' on the Hugging Face hub): "
            f"{error}. Set MODEL.WEIGHTS to a checkpoint on this machine, or to '' to start from "
            "random weights (then MODEL.REGNET.NORM 'BN' and MODEL.BACKBONE.FREEZE_AT 0)."
        ) from error


def _save_for_detectron2(state: dict, file: Path) -> None:
    """Write a checkpoint that detectron2 matches by name; never half of one under its name."""
    import torch

    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {"model": dict(state), "__author__": "timm", "matching_heuristics": True}
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    os.close(handle)
    try:
        torch.save(checkpoint, temporary)
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)
