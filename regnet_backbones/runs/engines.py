"""Engines: what computes in `evaluate` and `predict`, torch or a runtime of an exported file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from regnet_backbones.errors import MissingFileError, UserError, as_user_error
from regnet_backbones.export.inputs import CHECKPOINT
from regnet_backbones.export.running import ONNX_SUFFIXES, read_metadata
from regnet_backbones.files import sha256

Engine = Literal["torch", "onnxruntime", "openvino"]


def check_engine(
    engine: str, exported: str | Path | None, *, ignored: Mapping[str, bool] | None = None
) -> None:
    """Check that a trained model can be run by an engine.

    Args:
        engine: one of `Engine`.
        exported: the file that it is to run; torch runs none.
        ignored: options that only torch follows, and whether they are given.

    Raises:
        UserError: the engine is unknown, or cannot be combined with the others.
    """
    engines = get_args(Engine)
    if engine not in engines:
        raise UserError(f"engine must be one of {', '.join(engines)}, got {engine!r}")
    if engine == "torch":
        if exported is not None:
            others = " or ".join(engines[1:])
            raise UserError(f"--exported needs --engine {others}, which run '{exported}'")
        return
    for option, is_given in (ignored or {}).items():
        if is_given:
            raise UserError(
                f"{option} cannot be used with --engine {engine}, which runs a file on the CPU, in "
                "one process and the file's precision; leave it out"
            )


def metadata_of(exported: str | Path, checkpoint: str | Path) -> dict[str, str]:
    """Return the metadata of an ONNX file that was exported from a checkpoint.

    Raises:
        MissingFileError: the file is missing.
        UserError: it is not an ONNX file, or was exported from something else.
    """
    path = Path(exported)
    if path.suffix.lower() not in ONNX_SUFFIXES:
        raise UserError(f"--exported must end in .onnx, got '{path}'")
    if not path.is_file():
        raise MissingFileError(f"no file '{path}'; make it with regnet-backbones export")
    with as_user_error(Exception, prefix=f"'{path}' cannot be read as ONNX: "):
        metadata = read_metadata(path)
    found = metadata.get(CHECKPOINT)
    if found is None or found != sha256(checkpoint):
        source = "names no" if found is None else "was exported from another"
        raise UserError(
            f"'{path}' {source} checkpoint, expected '{checkpoint}'; make it with "
            "regnet-backbones export"
        )
    return metadata
