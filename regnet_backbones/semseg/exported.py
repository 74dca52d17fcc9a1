"""Segmenters in other runtimes: metadata of their files, and engines in the place of torch."""

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import distributed, nn
from torchvision import tv_tensors

from regnet_backbones.export import inputs as keys
from regnet_backbones.export import running
from regnet_backbones.export.formats import TOLERANCE, ExportError, export_onnx, random_images
from regnet_backbones.export.inputs import Normalization, Normalizer, normalization_of
from regnet_backbones.export.int8 import INT8
from regnet_backbones.files import sha256
from regnet_backbones.optimize.options import Optimization
from regnet_backbones.optimize.passes import relative_error
from regnet_backbones.runs import engines
from regnet_backbones.runs.trained import Trained
from regnet_backbones.semseg.dataset import read_image, val_transform
from regnet_backbones.semseg.module import Segmenter

TASK = "semantic segmentation"
OUTPUT = "logits"

# Root mean square of the error of 8 bits, as a part of the deviation of the logits: that of another
# network is above 1, whatever it computes.
INT8_TOLERANCE = 1.0

logger = logging.getLogger(__name__)


def normalization(segmenter: Segmenter) -> Normalization:
    """Return mean and deviation of the images of a segmenter."""
    given = segmenter.hparams
    return Normalization(tuple(given["mean"]), tuple(given["std"]))


def metadata_of(segmenter: Segmenter, checkpoint: Path) -> dict[str, str]:
    """Return the metadata of an exported segmenter; no paths."""
    run = Trained("segmenter", checkpoint).run_folder.resolve().name
    return normalization(segmenter).metadata() | {
        keys.TASK: TASK,
        keys.CLASS_NAMES: json.dumps(list(segmenter.class_names)),
        keys.RUN: run,
        keys.CHECKPOINT: sha256(checkpoint),
    }


def check_engine(
    engine: str,
    exported: str | Path | None,
    *,
    device: str | None = None,
    optimization: Optimization | None = None,
    processes: int = 1,
    precision: str = "32-true",
) -> None:
    """Raise UserError for an unknown engine, and for options that the engine would ignore."""
    ignored = {
        "--optimize, --dtype or --compile": optimization is not None,
        f"--device {device}": device not in (None, "auto", "cpu"),
        f"--devices {processes}": processes != 1,
        "torchrun": distributed.is_available() and distributed.is_torchelastic_launched(),
        f"precision {precision}": precision != "32-true",
    }
    engines.check_engine(engine, exported, ignored=ignored)


def use_engine(
    segmenter: Segmenter,
    checkpoint: Path,
    *,
    engine: running.Engine,
    exported: str | Path | None = None,
    images: torch.Tensor | None = None,
) -> None:
    """Replace the network of a segmenter, on the CPU, by an engine; compare both first.

    Without an `exported` file one is exported for this process; without normalised `images`
    (N, C, H, W) random ones are compared. Raise ExportError if the engine differs from torch.
    """
    if exported is not None:
        network = _engine_network(segmenter, Path(exported), engine, checkpoint)
    else:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "segmenter.onnx"
            export_onnx(segmenter.network, path, metadata=metadata_of(segmenter, checkpoint))
            network = _engine_network(segmenter, path, engine, checkpoint)
    side = segmenter.inference.window or segmenter.typical_side
    if images is None:
        images = random_images(1, len(segmenter.hparams["mean"]), (side, side))
    _put_in_place(segmenter, network, images[..., :side, :side], engine)


class EngineNetwork(nn.Module):
    """The network of a segmenter, run from an exported file; `replaced` is the one in torch.

    `normalization` is that of a file that takes pixels from 0 to 255.
    """

    def __init__(
        self,
        run: running.Runner,
        replaced: nn.Module,
        normalization: Normalization | None = None,
        quantization: str | None = None,
    ):
        super().__init__()
        self.run = run
        self.replaced = replaced
        self.normalizer = None if normalization is None else Normalizer(normalization)
        self.quantization = quantization

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes, H, W) of normalised images (N, C, H, W)."""
        if self.normalizer is not None:
            images = self.normalizer.undo(images)
        return self.run(images.contiguous())[OUTPUT]


def _engine_network(
    segmenter: Segmenter, path: Path, engine: running.Engine, checkpoint: Path
) -> EngineNetwork:
    """Load a file that was exported from a checkpoint."""
    metadata = engines.metadata_of(path, checkpoint)
    try:
        run = running.load_exported(path, engine=engine)
    except Exception as error:  # each runtime has its own
        raise ExportError(f"{engine} cannot load '{path}': {error}") from error
    options = (normalization_of(metadata), metadata.get(keys.QUANTIZATION))
    return EngineNetwork(run, segmenter.network, *options)


def _put_in_place(
    segmenter: Segmenter, network: EngineNetwork, images: torch.Tensor, engine: str
) -> None:
    """Replace the network by an engine's, if both give the same of images."""
    with torch.no_grad():
        expected = segmenter(images)
        segmenter.network = network
        try:
            found = segmenter(images)
        except Exception as error:  # each runtime has its own
            raise ExportError(f"{engine} fails on images {tuple(images.shape)}: {error}") from error
    if network.quantization == INT8:
        error, allowed = _deviation(found, expected), INT8_TOLERANCE
    else:
        error, allowed = relative_error(found, expected), TOLERANCE
    logger.info("%s against torch, logits: relative error %.1e", engine, error)
    if not error <= allowed:  # not-a-number is wrong, too
        numbers = f"relative error {error:.1e}, allowed {allowed:.1e}"
        raise ExportError(f"{engine} and torch differ: {numbers}; use another --engine")


def _deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the root mean square error as a part of the deviation of the expected values."""
    if found.shape != expected.shape:
        return float("inf")
    error = (found - expected).double().square().mean().sqrt()
    return (error / expected.double().std().clamp(min=1e-12)).item()


def calibration_inputs(
    segmenter: Segmenter, images: Iterable[Path], *, normalize: bool
) -> Iterator[torch.Tensor]:
    """Yield what an exported file gets (N, C, H, W) when images are evaluated.

    With `normalize` it takes pixels from 0 to 255.
    """
    given, seen = segmenter.hparams, []
    channels = len(given["mean"])
    transform = val_transform(mean=given["mean"], std=given["std"])

    def record(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(batch)
        return {OUTPUT: batch.new_zeros(len(batch), len(segmenter.class_names), *batch.shape[2:])}

    network = segmenter.network
    recorder = EngineNetwork(record, network, normalization(segmenter) if normalize else None)
    for path in images:
        image = tv_tensors.Image(torch.from_numpy(read_image(path, channels)).permute(2, 0, 1))
        segmenter.network = recorder
        try:
            segmenter.inference.classes(segmenter, transform(image).as_subclass(torch.Tensor)[None])
        finally:
            segmenter.network = network
        yield from seen
        seen.clear()
