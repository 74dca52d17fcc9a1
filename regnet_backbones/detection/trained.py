"""A trained detector as it was: its config, every weight of its checkpoint, and `OPTIMIZE`.

Checkpoints and precomputed proposals are read as data: nothing that a file says is run. Detectron2
itself unpickles a `.pkl` as it is, and only logs what a checkpoint lacks.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build
from detectron2.data.detection_utils import build_augmentation, convert_PIL_to_numpy
from detectron2.data.transforms import AugInput, AugmentationList
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import _filter_reused_missing_keys, _IncompatibleKeys
from PIL import Image
from torch import nn

from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import read_config, use_cpu_without_gpu
from regnet_backbones.detection.config_checks import check_config
from regnet_backbones.errors import UserError
from regnet_backbones.optimize.options import Optimization, log_report, optimize_trained
from regnet_backbones.runs.device import check_device
from regnet_backbones.runs.trained import Trained
from regnet_backbones.weights.loading import extractors
from regnet_backbones.weights.state_dicts import as_tensors, listing
from regnet_backbones.weights.unpickling import read_content

# What a file of proposals holds, and what Detectron called it.
PROPOSALS = {"ids": "indexes", "boxes": "boxes", "objectness_logits": "scores"}


def load_config(
    trained: Trained, *, opts: Sequence[str] = (), device: str | None = None
) -> CfgNode:
    """Return the checked, unfrozen config of a detector, with its checkpoint as `MODEL.WEIGHTS`.

    Args:
        trained: a detector, as `find_trained` finds it.
        opts: keys and values in turn that override the config.
        device: None for that of the config, or the CPU with a warning without a GPU.

    Raises:
        UserError: the config, an override or the device cannot be used.
    """
    for key in opts[::2]:
        if key in ("MODEL.WEIGHTS", "MODEL.DEVICE", "OUTPUT_DIR"):
            raise UserError(f"{key} cannot be overridden; use the path, --device or --output")
    cfg = read_config(trained.config_file, opts)
    cfg.MODEL.WEIGHTS = str(trained.checkpoint)
    if device is not None:
        check_device(device)
        cfg.MODEL.DEVICE = device
    use_cpu_without_gpu(cfg)
    import_projects(cfg)
    check_config(cfg, training=False)
    return cfg


def load_detector(
    trained: Trained, *, opts: Sequence[str] = (), device: str | None = "cpu"
) -> tuple[CfgNode, nn.Module]:
    """Return config and model in evaluation mode; arguments and errors as of `load_config`."""
    cfg = load_config(trained, opts=opts, device=device)
    model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    return cfg, model.eval()


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load a whole `checkpoint` into `model`; unlike in a training, no head may stay random."""
    WholeCheckpointer(model).load(checkpoint, checkpointables=[])


def for_inference(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Return a trained model as `OPTIMIZE` and `TEST.AUG` want it, in evaluation mode."""
    optimization = optimization_of(cfg)
    if optimization is not None:
        size = typical_size(cfg, model.backbone.size_divisibility)
        model, report = optimize_trained(model, optimization, image_size=size)
        if comm.is_main_process():
            log_report(report)
    model.eval()
    return GeneralizedRCNNWithTTA(cfg, model) if cfg.TEST.AUG.ENABLED else model


def optimization_of(cfg: CfgNode) -> Optimization | None:
    """Return what `OPTIMIZE` asks for, None if it is not enabled."""
    node = cfg.OPTIMIZE
    if not node.ENABLED:
        return None
    return Optimization(
        dtype=node.DTYPE, compile=node.COMPILE, fold=node.FOLD, memory_format=node.MEMORY_FORMAT
    )


def typical_size(cfg: CfgNode, divisor: int) -> tuple[int, int]:
    """Return height and width of a photograph as the backbone sees it, padded to a divisor."""
    sizes, divisor = cfg.INPUT, max(1, divisor)
    height = min(sizes.MIN_SIZE_TEST or 480, sizes.MAX_SIZE_TEST * 3 / 4)
    height, width = (math.ceil(side / divisor) * divisor for side in (height, height * 4 / 3))
    return height, width


def model_input(cfg: CfgNode, image: Image.Image) -> torch.Tensor:
    """Return an image (C, H, W) as a model of a config takes it, resized as in its tests."""
    return resized(cfg, convert_PIL_to_numpy(image, cfg.INPUT.FORMAT))


def resized(cfg: CfgNode, pixels: np.ndarray) -> torch.Tensor:
    """Return pixels (H, W, C), in the format of a config, as `model_input` does."""
    augmented = AugInput(pixels)
    AugmentationList(build_augmentation(cfg, is_train=False))(augmented)
    # Pillow's may be read-only.
    return torch.as_tensor(augmented.image.transpose(2, 0, 1).copy())


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which runs nothing of a file, whatever the model is."""

    must_be_whole = False

    def _load_file(self, filename: str) -> dict[str, object]:
        if extractors(self.model):
            return super()._load_file(filename)  # by `adapters.detectron2.checkpoint`
        content = read_content(Path(filename))
        content = content if isinstance(content, Mapping) else {"model": content}
        author, state = None, content.get("model", content)
        if filename.endswith(".pyth"):
            author, state = "pycls", content.get("model_state")
        elif filename.endswith(".pkl") and not {"model", "__author__"} <= content.keys():
            author, state = "Caffe2", content.get("blobs", content)
        if not isinstance(state, Mapping):
            raise UserError(f"'{filename}' has no state dict (tensors by name)")
        state = as_tensors(state, filename)
        if author is None:
            return {**(content if "model" in content else {}), "model": state}
        useless = ("num_batches_tracked", "_momentum")
        state = {name: value for name, value in state.items() if not name.endswith(useless)}
        return {"model": state, "__author__": author, "matching_heuristics": True}

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        super()._log_incompatible_keys(incompatible)
        missing = sorted(_filter_reused_missing_keys(self.model, incompatible.missing_keys))
        problems = {
            "weights have another shape": [
                f"{name} is {in_file} in the checkpoint and {in_model} in the model"
                for name, in_file, in_model in incompatible.incorrect_shapes
            ],
            # Counts of batches are not used, and zoo files have none.
            "weights are missing": [n for n in missing if not n.endswith("num_batches_tracked")],
        }
        words = [f"{len(n)} {what}: {listing(n)}" for what, n in problems.items() if n]
        if words and self.must_be_whole:
            raise UserError(
                f"the checkpoint does not fit the config: {'; '.join(words)}. Use the config of "
                "its training, with the same overrides"
            )


class WholeCheckpointer(SafeCheckpointer):
    """A checkpointer for which weights that detectron2 would leave random are an error."""

    must_be_whole = True


def read_proposals_safely() -> None:
    """Have detectron2's datasets read proposals with `load_proposals`: its own unpickles them."""
    build.load_proposals_into_dataset = load_proposals


def load_proposals(records: list[dict], file: str) -> list[dict]:
    """Add to each record the proposals of its image, as detectron2's function of the name does."""
    content = read_content(Path(PathManager.get_local_path(file)))
    try:
        lists = [content[new if new in content else old] for new, old in PROPOSALS.items()]
        mode = BoxMode(content.get("bbox_mode", BoxMode.XYXY_ABS.value))
        by_image = {str(image): found for image, *found in zip(*lists, strict=True)}
        for record in records:
            boxes, scores = map(np.asarray, by_image[str(record["image_id"])])
            order = scores.argsort()[::-1]
            record["proposal_boxes"] = boxes[order]
            record["proposal_objectness_logits"] = scores[order]
            record["proposal_bbox_mode"] = mode
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"proposals '{file}' must be a dict of {', '.join(PROPOSALS)} (lists with an array for "
            f"each image) and optionally bbox_mode, as COCOEvaluator writes: {error!r}"
        ) from error
    return records
