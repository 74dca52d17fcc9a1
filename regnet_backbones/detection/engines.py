"""What runs a detector in `evaluate` and `predict`: torch, or onnxruntime its exported file."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Literal, get_args

import torch
from detectron2.config import CfgNode
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, Instances
from torch import nn

from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.exporting import (
    CHECKPOINT_KEY,
    CONFIG_KEY,
    RESIZES_KEY,
    checkpoint_digest,
    decisive_values,
    export_detector,
    images_for,
)
from regnet_backbones.detection.processes import started_by_torchrun
from regnet_backbones.detection.trained import for_inference
from regnet_backbones.errors import MissingFileError, UserError, as_user_error
from regnet_backbones.export.formats import ExportError
from regnet_backbones.export.running import ONNX_SUFFIXES, load_exported, read_metadata

Engine = Literal["torch", "onnxruntime", "openvino"]

# The score threshold by architecture: a file with a lower one gives what a higher one lets pass.
THRESHOLDS = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "RetinaNet": "MODEL.RETINANET.SCORE_THRESH_TEST",
    "FCOSDetector": "MODEL.FCOS.INFERENCE_TH_TEST",
}

# Images of those to predict that a file is exported with, at most.
EXAMPLES = 16


class ExportedDetector:
    """An exported detector in the place of detectron2's model, run by onnxruntime on the CPU.

    Args:
        path: the file, of `export_detector`.
        min_score: instances that are not above it are left out.
    """

    def __init__(self, path: str | Path, *, min_score: float = -math.inf):
        self.run = load_exported(path)
        self.min_score = min_score

    def __call__(self, inputs: Sequence[Mapping]) -> list[dict]:
        """Return what detectron2's model returns of its inputs, for each image.

        An `image` is one that the file takes: resized, or as it is if the file resizes.
        """
        return [self._detect(each) for each in inputs]

    def _detect(self, inputs: Mapping) -> dict:
        image = inputs["image"]
        outputs, size = self.run(image.float().contiguous()), tuple(image.shape[-2:])
        height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
        if "sem_seg" in outputs:
            return {"sem_seg": sem_seg_postprocess(outputs["sem_seg"], size, height, width)}
        kind = "proposals" if "proposal_boxes" in outputs else "instances"
        found = Instances(size)
        for name, each in outputs.items():
            found.set(name, Boxes(each) if name.endswith("_boxes") else each)
        if kind == "instances":
            found = found[found.scores > self.min_score]
        return {kind: detector_postprocess(found, height, width)}


def check_engine(
    engine: Engine, *, exported: str | Path | None, device: str | None, processes: int = 1
) -> str | None:
    """Return the device of an engine, None for that of the config.

    Raises:
        UserError: a detector cannot be run by the engine, or it cannot be combined with the others.
    """
    if engine not in get_args(Engine):
        raise UserError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    if engine == "openvino":
        raise UserError(
            "OpenVINO computes exported detectors wrongly; use --engine onnxruntime or torch"
        )
    if engine == "torch":
        if exported is not None:
            raise UserError("--exported needs --engine onnxruntime")
        return device
    if device not in (None, "cpu"):
        raise UserError(f"--engine {engine} runs detectors on the CPU; leave out --device {device}")
    if processes > 1 or started_by_torchrun():
        raise UserError(f"--engine {engine} runs in one process; leave out --devices and torchrun")
    return "cpu"


def use_exported(cfg: CfgNode, engine: Engine, exported: str | Path | None) -> None:
    """Check that a config can be run by an engine, and with a file.

    Images keep their size (`INPUT.MIN_SIZE_TEST` becomes 0) if the file resizes them.

    Raises:
        UserError: the config asks for what the engine does not do, or the file is of another one.
    """
    if engine == "torch":
        return
    for key, enabled in (("TEST.AUG", cfg.TEST.AUG), ("OPTIMIZE", cfg.OPTIMIZE)):
        if enabled.ENABLED:
            raise UserError(f"{key} cannot be used with --engine {engine}; set {key}.ENABLED False")
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(f"--engine {engine} takes images only, not MODEL.LOAD_PROPOSALS")
    if exported is None:
        return
    metadata = _metadata_of(exported)
    if metadata[CHECKPOINT_KEY] != checkpoint_digest(cfg):
        raise UserError(f"'{exported}' was exported from another checkpoint: export it again")
    values, given = json.loads(metadata[CONFIG_KEY]), decisive_values(cfg)
    different = {key for key in values | given if values.get(key) != given.get(key)}
    threshold = THRESHOLDS.get(cfg.MODEL.META_ARCHITECTURE)
    if threshold in different:
        in_file = values.get(threshold, attrgetter(threshold)(default_config()))
        different -= {threshold} if _min_score(cfg) >= in_file else set()
    if different:
        raise UserError(
            f"'{exported}' was exported with another config, which differs in "
            f"{', '.join(sorted(different))}: export it again with the same --opts"
        )
    if json.loads(metadata[RESIZES_KEY]):
        cfg.INPUT.MIN_SIZE_TEST = 0


def build_engine(
    cfg: CfgNode,
    model: nn.Module,
    engine: Engine,
    exported: str | Path | None,
    images: Sequence[Path],
) -> nn.Module | ExportedDetector:
    """Return what detects: a trained model made ready for inference, or its exported file.

    Args:
        cfg: checked by `use_exported`.
        model: with its trained weights.
        engine, exported: see `evaluate`.
        images: of which the first are the examples of an export.
    """
    if engine == "torch":
        return for_inference(cfg, model)
    min_score = _min_score(cfg)
    if exported is not None:
        return ExportedDetector(exported, min_score=min_score)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.onnx"
        try:
            export_detector(cfg, model, path, images=_examples(cfg, images))
        except ExportError as error:
            raise ExportError(
                f"the detector cannot be run with --engine {engine}: {error}. If other images "
                "help, export it with them, and give the file as --exported"
            ) from error
        return ExportedDetector(path, min_score=min_score)


def _metadata_of(exported: str | Path) -> dict[str, str]:
    path = Path(exported)
    if path.suffix.lower() not in ONNX_SUFFIXES:
        raise UserError(f"--exported must end in .onnx, got '{path}'")
    if not path.is_file():
        raise MissingFileError(f"no file '{path}'; make it with regnet-backbones export")
    with as_user_error(Exception, prefix=f"'{path}' cannot be read as ONNX: "):
        metadata = read_metadata(path)
    if not {CHECKPOINT_KEY, CONFIG_KEY, RESIZES_KEY} <= metadata.keys():
        raise UserError(
            f"'{path}' is not a whole detector of Detectron2: make it with regnet-backbones export"
        )
    return metadata


def _min_score(cfg: CfgNode) -> float:
    """Return the score threshold of a config, minus infinity if its architecture has none."""
    key = THRESHOLDS.get(cfg.MODEL.META_ARCHITECTURE)
    return -math.inf if key is None else attrgetter(key)(cfg)


def _examples(cfg: CfgNode, images: Sequence[Path]) -> list[torch.Tensor]:
    """Return the first images that can be read, as the model takes them; drawn ones without any."""
    examples: list[torch.Tensor] = []
    for image in images:
        with suppress(UserError):  # it is reported when its turn comes
            examples += images_for(cfg, [image])
        if len(examples) == EXAMPLES:
            break
    return examples or images_for(cfg)
