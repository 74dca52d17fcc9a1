"""A trained detector or segmenter in Python: from a run to boxes and masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args, overload

import numpy as np
from PIL import Image, ImageOps

from regnet_backbones.errors import MissingPackageError, UserError
from regnet_backbones.optimize.options import Dtype, Optimization
from regnet_backbones.runs.device import float32_default
from regnet_backbones.runs.engines import Engine
from regnet_backbones.runs.image_files import check_batch_size, depth_problem, open_upright
from regnet_backbones.runs.predictions import Result
from regnet_backbones.runs.trained import Kind, find_trained

if TYPE_CHECKING:
    from regnet_backbones.detection.prediction import DetectorPredictor
    from regnet_backbones.semseg.prediction import SegmenterPredictor

# What a model sees: a file, or an image in memory.
Picture = str | Path | Image.Image | np.ndarray
Each = TypeVar("Each", bound=Picture)


class Predictor:
    """A trained model that predicts images, as `load` returns it.

    Args:
        kind: "detector" or "segmenter".
        model: of this kind.

    Attributes:
        class_names: of its classes, by number.
    """

    def __init__(self, kind: Kind, model: "DetectorPredictor | SegmenterPredictor"):
        self.kind, self.class_names, self._model = kind, model.class_names, model

    @overload
    def predict(self, images: Picture, *, batch_size: int = 1) -> Result: ...

    @overload
    def predict(
        self, images: list[Each] | tuple[Each, ...], *, batch_size: int = 1
    ) -> list[Result]: ...

    def predict(
        self, images: Picture | list[Each] | tuple[Each, ...], *, batch_size: int = 1
    ) -> Result | list[Result]:
        """Predict an image, or each of a list.

        Args:
            images: path of an image file; a Pillow image; or an array, uint8, of RGB (H, W, 3),
                RGBA (H, W, 4) or grey values (H, W). EXIF data turn files and Pillow images.
            batch_size: how many consecutive images of one size the model takes at a time (of a
                detector after resizing), and windows of one image. Results may differ in the last
                bits.

        Returns:
            A result; of a list a list.

        Raises:
            UserError: an image cannot be read, or is none of these.
        """
        check_batch_size(batch_size)
        if isinstance(images, (list, tuple)):
            return list(self._model.results(map(_upright, images), batch_size))
        return next(self._model.results(map(_upright, [images]), batch_size))


@float32_default()
def load(
    path: str | Path,
    *,
    config_file: str | Path | None = None,
    device: str | None = None,
    precision: Dtype | None = None,
    engine: Engine = "torch",
    exported: str | Path | None = None,
    min_score: float | None = None,
    opts: Sequence[str] = (),
    val_json: str | Path | None = None,
    window: int | None = None,
    window_stride: int | None = None,
) -> Predictor:
    """Load what was trained, to predict images as `regnet-backbones predict` does.

    Args:
        path: the folder of a run, a checkpoint, or a shared model: `hf-hub:owner/name`.
        config_file: of a detector; None for the `config.yaml` next to the checkpoint.
        device: "cpu", "cuda", "cuda:1", ...; None for a GPU if present (of a detector, for the
            device of its config).
        precision: "float32", "bfloat16" or "float16", which `optimize` makes the weights; None for
            `OPTIMIZE` of a detector's config, and float32.
        engine: "torch"; "onnxruntime" or, of a segmenter, "openvino", on the CPU.
        exported: the ONNX file that the engine runs; None to export one now.
        min_score: of a detector: objects below are left out, None for 0.5.
        opts: of a detector: keys and values in turn that override its config.
        val_json: of a detector: a COCO json that names its classes, if its config does not.
        window, window_stride: pixels of windows that slide over large images; None for none, and
            for two thirds of a window.

    Returns:
        The model, ready to predict.

    Raises:
        UserError: the path, the checkpoint or an argument cannot be used, or arguments cannot be
            combined.
        MissingPackageError: what the kind of model needs is not installed.
    """
    dtypes = get_args(Dtype)
    if precision is not None and precision not in dtypes:
        raise UserError(f"precision must be one of {', '.join(dtypes)}, got {precision!r}")
    trained = find_trained(path, config_file=config_file)
    if trained.kind == "detector":
        from regnet_backbones.detection.prediction import DetectorPredictor

        keys = [] if precision is None else ["OPTIMIZE.DTYPE", precision]
        keys += [] if precision in (None, "float32") else ["OPTIMIZE.ENABLED", "True"]
        detector = DetectorPredictor(
            trained,
            min_score=0.5 if min_score is None else min_score,
            opts=[*keys, *opts],
            device=device,
            val_json=val_json,
            engine=engine,
            exported=exported,
            window=window,
            window_stride=window_stride,
        )
        detector.build()
        return Predictor("detector", detector)
    only_detectors = {"min_score": min_score, "opts": opts or None, "val_json": val_json}
    for name, value in only_detectors.items():
        if value is not None:
            raise UserError(f"{name} cannot be used with a segmenter; leave it out")
    try:
        from regnet_backbones.semseg.inference import Inference
        from regnet_backbones.semseg.prediction import SegmenterPredictor
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{error}; segmenters need `pip install 'regnet-backbones[train]'`", name=error.name
        ) from error
    slides = window is not None or window_stride is not None
    segmenter = SegmenterPredictor(
        trained.checkpoint,
        inference=Inference(window=window, window_stride=window_stride) if slides else None,
        device=device,
        optimization=None if precision in (None, "float32") else Optimization(dtype=precision),
        engine=engine,
        exported=exported,
    )
    return Predictor("segmenter", segmenter)


def _upright(picture: Picture) -> Image.Image:
    """Return a picture as Pillow's image, turned as its EXIF data say."""
    if isinstance(picture, (str, Path)):
        return open_upright(picture)
    if isinstance(picture, Image.Image):
        if problem := depth_problem(picture):
            raise UserError(f"an image {problem}")
        return ImageOps.exif_transpose(picture)
    if not isinstance(picture, np.ndarray):
        raise UserError(
            "an image must be a path, a Pillow image or an array, got "
            f"{type(picture).__module__}.{type(picture).__qualname__}"
        )
    has_channels = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))
    if picture.dtype != np.uint8 or not has_channels or 0 in picture.shape:
        raise UserError(
            "an array must be uint8 from 0 to 255, of RGB (H, W, 3), RGBA (H, W, 4) or grey "
            f"(H, W), got {picture.dtype} {picture.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(picture))
