"""Static quantisation of an ONNX file to 8 bits, by onnxruntime, calibrated on images.

Convolutions are quantised, which take nearly all of the time, and the ReLUs behind them; the rest
stays float32. Weights are int8, one scale per channel. Activations are uint8, as the instructions
of x86 processors multiply unsigned by signed bytes (VNNI, and AVX2, see `reduce_range`); int8 ones
are what onnxruntime recommends for ARM and GPUs.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_args

import torch

from regnet_backbones.errors import UserError
from regnet_backbones.export.formats import Checked, ExportError, check_path, written_whole
from regnet_backbones.export.inputs import QUANTIZATION
from regnet_backbones.export.running import (
    ONNX_SUFFIXES,
    load_exported,
    read_metadata,
    write_metadata,
)
from regnet_backbones.optimize.passes import relative_error

Ranges = Literal["entropy", "percentile", "minmax"]

INT8 = "int8"  # in the metadata
MAX_IMAGES = 128
COMPARED = 8  # calibration images on which outputs are compared where nothing is evaluated
QUANTIZED = ["Conv", "Relu"]  # a ReLU becomes the range of the convolution before it


def quantize(
    path: str | Path,
    output: str | Path,
    images: Iterable[torch.Tensor],
    *,
    ranges: Ranges = "percentile",
    reduce_range: bool = False,
) -> Path:
    """Quantise the convolutions of an ONNX file; its sizes stay free and its metadata are kept.

    Args:
        path: an ONNX file with one input, of less than 2 GB.
        output: the new file, `.onnx`; its metadata have `quantization` "int8".
        images: inputs of the file: batches (N, C, H, W), or images (C, H, W) of a whole detector.
            The first 128 are used, one is in memory at a time.
        ranges: what the range of an activation covers: "minmax" all values seen, "percentile"
            99.999 percent of them, "entropy" those whose distribution 8 bits keep best.
        reduce_range: quantise weights to 7 bits, for processors with AVX2 but without VNNI, whose
            sums of 8-bit products may saturate.

    Returns:
        The new file.

    Raises:
        ModuleNotFoundError: onnx or onnxruntime is not installed.
        OSError: the folder does not exist, or cannot be written to.
        ValueError: an argument is invalid; as `ExportError`: the file cannot be quantised.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    if ranges not in get_args(Ranges):
        raise UserError(f"ranges must be one of {', '.join(get_args(Ranges))}, got {ranges!r}")
    output = check_path(output, ONNX_SUFFIXES)
    with tempfile.TemporaryDirectory() as folder, written_whole(output) as target:
        try:
            with _quiet():
                source = _with_own_constants(Path(path), Path(folder))
                cache = _calibrate(source, Path(folder), images, ranges)
                quantize_static(
                    source,
                    target,
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=QUANTIZED,
                    per_channel=True,
                    reduce_range=reduce_range,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=_method(ranges),
                    calibration_cache_path=cache,
                )
        except (OSError, UserError):
            raise
        except Exception as error:  # of many kinds, and not documented
            raise ExportError(f"'{path}' cannot be quantised: {error}") from error
        write_metadata(target, read_metadata(path) | {QUANTIZATION: INT8})
    return output


def export_quantized(
    output: str | Path,
    export: Callable[[Path], Checked],
    inputs: Callable[[], Iterable[torch.Tensor]],
    *,
    evaluate: Callable[[Path], Mapping[str, float]] | None = None,
    ranges: Ranges = "percentile",
    max_loss: float = 1.0,
) -> str:
    """Export to ONNX, quantise to 8 bits, compare both files, and return lines for people.

    `export` writes the float32 file, `inputs` gives its inputs for the calibration images at
    each call. `evaluate` returns the metrics of a file in percent, of which 8 bits may lose
    `max_loss` points; without it outputs are compared.
    """
    with tempfile.TemporaryDirectory() as folder, written_whole(Path(output)) as target:
        whole = Path(folder) / "float32.onnx"
        lines = [str(size) for size in export(whole).sizes]
        quantize(whole, target, inputs(), ranges=ranges)
        if evaluate is None:
            errors = largest_errors(whole, target, islice(inputs(), COMPARED))
            listed = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
            lines.append(f"int8 against float32, calibration images: relative error {listed}")
        else:
            lines += _compared(evaluate(whole), evaluate(target), max_loss)
        sizes = [file.stat().st_size / 2**20 for file in (whole, target)]
    lines.append(f"{sizes[0]:.1f} MiB in float32, {sizes[1]:.1f} MiB in int8")
    return "\n".join([*lines, f"written: {output}"])


def _compared(
    before: Mapping[str, float], after: Mapping[str, float], max_loss: float
) -> list[str]:
    """Return a line for each metric in percent; raise ExportError if one loses too much."""
    lines = [f"{k} {before[k]:.2f}% in float32, {after[k]:.2f}% in int8" for k in before]
    if not all(before[name] - after[name] <= max_loss for name in before):
        text = f"int8 loses more than --max-loss {max_loss} points: {'; '.join(lines)}; no file"
        raise ExportError(f"{text} written. Try other --ranges or more --calibration images")
    return lines


def largest_errors(
    path: str | Path, quantised: str | Path, inputs: Iterable[torch.Tensor]
) -> dict[str, float]:
    """Return, by output, the largest difference of two files as a part of the largest value."""
    before, after = load_exported(path), load_exported(quantised)
    errors: dict[str, float] = {}
    for images in inputs:
        found = after(images)
        for name, expected in before(images).items():
            error = relative_error(found[name], expected)
            errors[name] = max(errors.get(name, 0.0), error)
    return errors


def _with_own_constants(path: Path, folder: Path) -> Path:
    """Write a copy of a model in which equal constants are constants of their own.

    An exporter by tracing stores equal biases once, behind `Identity` nodes. Such a bias is no
    constant for the quantisation, and onnxruntime runs its convolution in float32.
    """
    import onnx

    model = onnx.load(path)
    constants = {each.name: each for each in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "Identity" and node.input[0] in constants:
            copied = model.graph.initializer.add()
            copied.CopyFrom(constants[node.input[0]])
            copied.name = node.output[0]
            constants[copied.name] = copied
            model.graph.node.remove(node)
    copy = folder / "float32.onnx"
    onnx.save(model, copy)
    return copy


def _calibrate(path: Path, folder: Path, images: Iterable[torch.Tensor], ranges: Ranges) -> Path:
    """Write the ranges of the activations to a file that `quantize_static` reads.

    Given a reader of all images, it would hold the activations of all of them in memory at once.
    """
    from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data

    calibrator = create_calibrator(
        path,
        QUANTIZED,
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=_method(ranges),
        extra_options={"symmetric": False},  # or "percentile" would have it so
    )
    (name,) = (each.name for each in calibrator.infer_session.get_inputs())
    collected = False
    for image in islice(images, MAX_IMAGES):
        inputs = iter([{name: image.contiguous().numpy()}, None])
        calibrator.collect_data(SimpleNamespace(get_next=inputs.__next__))
        collected = True
    if not collected:
        raise UserError("no calibration images; pass some that look like those of later use")
    cache = folder / "ranges.json"
    save_tensors_data(calibrator.compute_data(), cache)
    return cache


def _method(ranges: Ranges) -> object:
    from onnxruntime.quantization import CalibrationMethod

    return {
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
        "minmax": CalibrationMethod.MinMax,
    }[ranges]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what onnxruntime's quantisation prints, and its advice to optimise first."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
