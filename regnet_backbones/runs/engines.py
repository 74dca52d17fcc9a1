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
    """Raise UserError for an unknown engine, or one that would ignore options that are given."""
    engines = get_args(Engine)
    if engine not in engines:
        raise UserError(f"engine must be one of {', '.join(engines)}, got {engine!r}")
    if engine == "torch":
        if exported is not None:
            raise UserError(f"--exported needs --engine {' or '.join(engines[1:])}, got {engine!r}")
        return
    for option, is_given in (ignored or {}).items():
        if is_given:
            raise UserError(f"{option} cannot be combined with --engine {engine}; leave it out")


def metadata_of(exported: str | Path, checkpoint: str | Path) -> dict[str, str]:
    """Return the metadata of an ONNX file; raise UserError if it is not of this checkpoint."""
    path = Path(exported)
    if path.suffix.lower() not in ONNX_SUFFIXES:
        raise UserError(f"--exported must end in .onnx, got '{path}'")
    if not path.is_file():
        raise MissingFileError(f"no file '{path}'; write it with regnet-backbones export")
    with as_user_error(Exception, prefix=f"'{path}' cannot be read as ONNX: "):
        metadata = read_metadata(path)
    found = metadata.get(CHECKPOINT)
    if found is None or found != sha256(checkpoint):
        text = f"'{path}' was not exported from '{checkpoint}'"
        raise UserError(f"{text}; write it again with regnet-backbones export")
    return metadata
