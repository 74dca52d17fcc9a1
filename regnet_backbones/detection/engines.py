"""What runs a detector in `evaluate` and `predict`: torch, or onnxruntime its exported file."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, Instances
from torch import nn

from regnet_backbones.detection import exporting
from regnet_backbones.detection.architectures import architecture_of
from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.processes import started_by_torchrun
from regnet_backbones.detection.trained import for_inference
from regnet_backbones.errors import UserError
from regnet_backbones.export.formats import ExportError
from regnet_backbones.export.running import load_exported
from regnet_backbones.runs import engines
from regnet_backbones.runs.engines import Engine

# Images of those to predict that a file is exported with, at most.
EXAMPLES = 16


class ExportedDetector:
    """A detector exported to `path`, run by onnxruntime; instances above `min_score` are kept."""

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
    """Return the device of an engine, None for that of the config; raise UserError if invalid."""
    ignored = {
        f"--device {device}": device not in (None, "cpu"),
        "--devices": processes > 1,
        "torchrun": started_by_torchrun(),
    }
    engines.check_engine(engine, exported, ignored=ignored)
    if engine == "openvino":
        raise UserError("--engine openvino is wrong for detectors; use onnxruntime or torch")
    return device if engine == "torch" else "cpu"


def use_exported(cfg: CfgNode, engine: Engine, exported: str | Path | None) -> None:
    """Check a config against an engine and a file; if this resizes, `MIN_SIZE_TEST` becomes 0."""
    if engine == "torch":
        return
    for key, enabled in (("TEST.AUG", cfg.TEST.AUG), ("OPTIMIZE", cfg.OPTIMIZE)):
        if enabled.ENABLED:
            raise UserError(f"{key} cannot be used with --engine {engine}; set {key}.ENABLED False")
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(f"MODEL.LOAD_PROPOSALS needs --engine torch, got {engine}")
    if exported is None:
        return
    metadata = engines.metadata_of(exported, cfg.MODEL.WEIGHTS)
    if not {exporting.CONFIG_KEY, exporting.RESIZES_KEY} <= metadata.keys():
        raise UserError(
            f"'{exported}' is not an exported detector; make one with `regnet-backbones export`"
        )
    values, given = json.loads(metadata[exporting.CONFIG_KEY]), exporting.decisive_values(cfg)
    different = {key for key in values | given if values.get(key) != given.get(key)}
    threshold = architecture_of(cfg).min_score
    if threshold in different:  # a file with a lower one gives what a higher one lets pass
        in_file = values.get(threshold, attrgetter(threshold)(default_config()))
        different -= {threshold} if _min_score(cfg) >= in_file else set()
    if different:
        raise UserError(
            f"'{exported}' was exported with another {', '.join(sorted(different))}; export it "
            "again with the same --opts"
        )
    if json.loads(metadata[exporting.RESIZES_KEY]):
        cfg.INPUT.MIN_SIZE_TEST = 0


def build_engine(
    cfg: CfgNode,
    model: nn.Module,
    engine: Engine,
    exported: str | Path | None,
    images: Sequence[Path],
) -> nn.Module | ExportedDetector:
    """Return a trained model ready for inference, or its exported file, made here if not given."""
    if engine == "torch":
        return for_inference(cfg, model)
    min_score = _min_score(cfg)
    if exported is not None:
        return ExportedDetector(exported, min_score=min_score)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.onnx"
        try:
            exporting.export_detector(cfg, model, path, images=_examples(cfg, images))
        except ExportError as error:
            raise ExportError(
                f"cannot export the detector for --engine {engine}: {error}. If other images help, "
                "pass them to `export --images`, and the file with --exported"
            ) from error
        return ExportedDetector(path, min_score=min_score)


def _min_score(cfg: CfgNode) -> float:
    """Return the score threshold of a config, minus infinity if its architecture has none."""
    key = architecture_of(cfg).min_score
    return attrgetter(key)(cfg) if key else -math.inf


def _examples(cfg: CfgNode, images: Sequence[Path]) -> list[torch.Tensor]:
    """Return the first images that can be read, as the model takes them; drawn ones without any."""
    examples: list[torch.Tensor] = []
    for image in images:
        with suppress(UserError):  # it is reported when its turn comes
            examples += exporting.images_for(cfg, [image])
        if len(examples) == EXAMPLES:
            break
    return examples or exporting.images_for(cfg)
