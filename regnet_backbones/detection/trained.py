"""A trained detector as it was: its config, and every weight of its checkpoint.

Checkpoints and precomputed proposals are read as data: nothing that a file says is run. Detectron2
itself unpickles a `.pkl` as it is, and only logs what a checkpoint lacks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import _filter_reused_missing_keys, _IncompatibleKeys
from torch import nn

from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import read_config, use_cpu_without_gpu
from regnet_backbones.detection.config_checks import check_config
from regnet_backbones.errors import UserError
from regnet_backbones.runs.device import check_device
from regnet_backbones.runs.trained import Trained
from regnet_backbones.weights.loading import extractors
from regnet_backbones.weights.state_dicts import as_tensors, listing, shown
from regnet_backbones.weights.unpickling import read_content

# Keys of a config that are set in another way, which an override would contradict.
SET_OTHERWISE = {
    "MODEL.WEIGHTS": "pass the checkpoint as the path",
    "MODEL.DEVICE": "use --device",
    "OUTPUT_DIR": "use --output",
}

# What a file of proposals holds, and what Detectron called it.
PROPOSALS = {"ids": "indexes", "boxes": "boxes", "objectness_logits": "scores"}


def load_config(
    trained: Trained, *, opts: Sequence[str] = (), device: str | None = None
) -> CfgNode:
    """Return the config of a trained detector, with its checkpoint as `MODEL.WEIGHTS`.

    Args:
        trained: a detector, as `find_trained` finds it.
        opts: keys and values in turn that override the config.
        device: such as "cpu" or "cuda:1"; None for that of the config, or the CPU with a warning
            without a GPU.

    Returns:
        The checked config, not frozen.

    Raises:
        UserError: the config, an override or the device cannot be used.
    """
    for key in opts[::2]:
        if key in SET_OTHERWISE:
            raise UserError(f"{key} cannot be overridden here; {SET_OTHERWISE[key]} instead")
    cfg = read_config(trained.config_file, opts)
    cfg.MODEL.WEIGHTS = str(trained.checkpoint)
    if device is not None:
        check_device(device)
        cfg.MODEL.DEVICE = device
    use_cpu_without_gpu(cfg)
    model = cfg.MODEL
    if cfg.TEST.AUG.ENABLED and (
        model.META_ARCHITECTURE != "GeneralizedRCNN" or model.KEYPOINT_ON or model.LOAD_PROPOSALS
    ):
        raise UserError(
            "TEST.AUG.ENABLED must be False for keypoints, precomputed proposals, and any "
            f"MODEL.META_ARCHITECTURE but GeneralizedRCNN, this is a {model.META_ARCHITECTURE}"
        )
    import_projects(cfg)
    check_config(cfg, training=False)
    return cfg


def load_detector(
    trained: Trained, *, opts: Sequence[str] = (), device: str | None = "cpu"
) -> tuple[CfgNode, nn.Module]:
    """Return the config and the model of a trained detector, in evaluation mode.

    Args:
        trained, opts, device: see `load_config`.
    """
    cfg = load_config(trained, opts=opts, device=device)
    model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    return cfg, model.eval()


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load a checkpoint into a detector, all of it.

    Where a training starts, heads of other classes may stay random. Here they may not.

    Args:
        model: changed in place.
        checkpoint: a file or address that detectron2's `DetectionCheckpointer` reads.

    Raises:
        UserError: the checkpoint lacks weights of the model, or has them in other shapes.
    """
    WholeCheckpointer(model).load(checkpoint, checkpointables=[])


def with_test_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Return the model, that averages over sizes and mirrored images if `TEST.AUG` is enabled."""
    return GeneralizedRCNNWithTTA(cfg, model) if cfg.TEST.AUG.ENABLED else model


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which runs nothing of a file, whatever the model is."""

    def _load_file(self, filename: str) -> dict[str, object]:
        if extractors(self.model):
            return super()._load_file(filename)  # by `adapters.detectron2.checkpoint`
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
    """Raise UserError if a checkpoint lacks weights of the model, or has them in other shapes."""
    missing = sorted(_filter_reused_missing_keys(model, incompatible.missing_keys))
    problems = {
        "have another shape": [
            f"{name} is {in_file} in the checkpoint and {in_model} in the model"
            for name, in_file, in_model in incompatible.incorrect_shapes
        ],
        # Counts of batches are not used, and zoo files have none.
        "are not in it": [name for name in missing if not name.endswith("num_batches_tracked")],
    }
    words = [f"{len(names)} {what}: {listing(names)}" for what, names in problems.items() if names]
    if words:
        raise UserError(
            "the checkpoint is not of the model that the config describes; of its weights "
            f"{'; '.join(words)}. Use the config of its training, with its overrides"
        )


def read_proposals_safely() -> None:
    """Have detectron2's datasets read proposals with `load_proposals`: its own unpickles them."""
    build.load_proposals_into_dataset = load_proposals


def load_proposals(records: list[dict], file: str) -> list[dict]:
    """Add to each record of a dataset the proposals of its image, the best first.

    The file is a pickle of "ids", "boxes" and "objectness_logits", lists with an entry for each
    image, and perhaps "bbox_mode" (`detectron2.data.build.load_proposals_into_dataset`).
    """
    content = read_content(Path(PathManager.get_local_path(file)))
    found = content if isinstance(content, Mapping) else {}
    lists = [found.get(name, found.get(old)) for name, old in PROPOSALS.items()]
    mode = found.get("bbox_mode", BoxMode.XYXY_ABS.value)
    is_known = type(mode) is int and mode in list(BoxMode)
    if not is_known or not all(type(v) is list and len(v) == len(lists[0]) for v in lists):
        raise UserError(
            f"proposals '{file}' must be a dict of {', '.join(PROPOSALS)}, lists of one length, "
            f"and a bbox_mode of detectron2's, got {shown(mode)}; COCOEvaluator writes such files"
        )
    by_image = {str(image): found for image, *found in zip(*lists, strict=True)}
    for record in records:
        image = record["image_id"]
        boxes, scores = by_image.get(str(image), (None, None))
        if not all(
            isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and np.isfinite(array).all()
            for array in (boxes, scores)
        ) or (scores.ndim, boxes.shape) != (1, (*scores.shape, 4)):
            raise UserError(
                f"proposals '{file}' of image {image!r} must be finite boxes (N, 4) and scores "
                "(N,), numpy arrays of numbers; compute them for this dataset"
            )
        order = scores.argsort()[::-1]
        record["proposal_boxes"] = boxes[order]
        record["proposal_objectness_logits"] = scores[order]
        record["proposal_bbox_mode"] = BoxMode(mode)
    return records
