"""Read what a weights file holds, and never run code that it holds.

Torch's files (zip archives, and the format before torch 1.6), safetensors, and pickles of numpy
arrays, which is what Detectron2's zoo distributes. A pickle can name any function to call. torch's
own unpickler (`weights_only=True`) and the one here call only what rebuilds tensors, arrays and
containers. Both get stand-ins for numpy's functions: numpy itself believes the item size and the
flags that a pickled dtype claims, and a false flag has it follow numbers as pointers.
"""

import argparse
import math
import pickle
import pickletools
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors.torch
import torch

from regnet_backbones.weights.dialects import listing

# Format before torch 1.6: pickles of this number, a version, the system, and the content.
OLD_TORCH_MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
OLD_TORCH_PICKLES = 4

# The longest header that safetensors itself accepts, in bytes.
SAFETENSORS_MAX_HEADER = 100_000_000

# What torch says when a file asks for more than tensors.
TORCH_REFUSAL = re.compile(
    r"GLOBAL (?P<name>\S+)|reduce for unrecognized function|Can only (?:create|build) "
)

# numpy's numbers and strings: no objects ("O"), no records ("V"), no dates.
PLAIN_DTYPE = re.compile(r"[biufcSU]\d+")

EXPORT_HINT = "torch.save(model.state_dict(), path)"

# torch has one list of safe globals a process: threads take turns at exchanging it.
_SAFE_GLOBALS_LOCK = threading.Lock()


def read_content(path: Path) -> object:
    """Read whatever the file holds, by its content; every failure names the file."""
    if path.is_dir():
        held = sorted(p.name for p in path.iterdir())
        raise ValueError(f"{path} is a folder, give one file of it: {listing(held) or 'none'}")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, give the path of a weights file")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty (0 bytes); download or copy it again")
    with path.open("rb") as file:
        head = file.read(1024)
    _check_not_text(path, head)
    try:
        return _plain(_reader(head)(path), {})
    except OSError:
        raise
    # Damage makes torch and pickle raise nearly anything, a MemoryError where a length is damaged.
    except Exception as error:
        refusal = _refusal(error)
        if refusal is not None:
            raise ValueError(
                f"{path} {refusal}; refused, because loading it would run code; "
                f"export plain tensors with {EXPORT_HINT}"
            ) from error
        if isinstance(error, _OtherFormatError):
            raise ValueError(f"{path} {error}; save the weights with {EXPORT_HINT}") from error
        raise ValueError(
            f"{path} is truncated or damaged ({size} bytes); download or copy it again"
        ) from error


def _reader(head: bytes) -> Callable[[Path], object]:
    """Choose how to read a file that starts with `head`."""
    if head.startswith(b"PK\x03\x04"):
        return _read_zip
    if OLD_TORCH_MAGIC in head[:32]:
        return _read_old_torch
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= SAFETENSORS_MAX_HEADER:
        return safetensors.torch.load_file
    return _read_pickle


def _read_zip(path: Path) -> object:
    """Read a zip archive, if it is one of torch.save."""
    with zipfile.ZipFile(path) as archive:
        files = {Path(name).name for name in archive.namelist()}
    if "constants.pkl" in files:
        raise _RefusedError("is a TorchScript archive")
    if "data.pkl" not in files:
        raise _OtherFormatError("is a zip archive, but not one that torch.save wrote")
    return _read_torch(path)


def _read_old_torch(path: Path) -> object:
    """Read a file of torch.save before torch 1.6: pickles, then the bytes of the tensors."""
    try:
        return _read_torch(path)
    except pickle.UnpicklingError:
        # Where the file is cut within a name, torch takes the rest for a name, and refuses it.
        with path.open("rb") as file:
            for _ in range(OLD_TORCH_PICKLES):
                for _ in pickletools.genops(file):
                    pass
        raise


def _read_torch(path: Path) -> object:
    """Read a file of torch.save."""
    # An open file: of a path, torch.load believes the suffix.
    with path.open("rb") as file, _safe_globals_are_ours():
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "Unsupported operand" in str(error):
                raise _OtherFormatError(
                    "uses pickle operations that torch does not load safely (a pickle_protocol "
                    "other than 2?)"
                ) from error
            raise


def _read_pickle(path: Path) -> object:
    """Read a pickle of numpy arrays and plain containers."""
    with path.open("rb") as file:
        _check_memo(file, path.stat().st_size)
        file.seek(0)
        # Pickles of Python 2 hold bytes as strings: latin1 keeps every byte.
        return _ArrayUnpickler(file, encoding="latin1").load()


def _check_memo(file: BinaryIO, size: int) -> None:
    """Raise ValueError for an index that no file of this size needs: pickle makes room for it."""
    with suppress(UnicodeDecodeError):  # pickletools reads protocol 0 as ASCII, Python 2 wrote more
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > size:
                raise ValueError(f"memo index {argument} in {size} bytes")


def _check_not_text(path: Path, head: bytes) -> None:
    """Raise ValueError for what a failed download leaves under the name of a weights file."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise ValueError(
            f"{path} is a web page, not the weights; download the file that the page links to"
        )
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a git-lfs pointer, not the weights; fetch them with git lfs pull"
        )


def _refusal(error: Exception) -> str | None:
    """Say what a file asked for that only code could give; None if the error is another."""
    if isinstance(error, _RefusedError):
        return str(error)
    asked = TORCH_REFUSAL.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if asked is None:
        return None
    return f"asks for {asked['name'] or 'objects other than tensors'}"


class _RefusedError(Exception):
    """A file asks for something that is neither tensor, array nor container."""


class _OtherFormatError(Exception):
    """A file is sound, but no weights file that can be read here."""


class _Dtype:
    """A pickled numpy dtype: its kind and byte order, and nothing else that it claims."""

    __hash__ = None

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
            raise _RefusedError(f"holds an array of Python objects or records (dtype {code!r})")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """A pickled numpy array, rebuilt from its bytes."""

    __hash__ = None

    def __init__(self, *_: object) -> None:
        self.numpy = None

    def __setstate__(self, state: tuple) -> None:
        *_, shape, dtype, is_fortran, data = state
        self.fill(shape, dtype, "F" if is_fortran else "C", data)

    def fill(self, shape: tuple, dtype: _Dtype, order: str, data: object) -> None:
        """Take the values from their bytes, of which there must be exactly enough."""
        if isinstance(data, str):  # Python 2 wrote bytes as a string
            data = data.encode("latin1")
        if len(data) != math.prod(shape) * dtype.numpy.itemsize:
            raise ValueError(f"{len(data)} bytes for {shape} of {dtype.numpy}")
        # Bytes could not be written to.
        self.numpy = np.ndarray(shape, dtype.numpy, buffer=bytearray(data), order=order)


def _array_from_buffer(
    data: object, dtype: _Dtype, shape: tuple, order: str, axes: tuple | None = None
) -> _Array:
    """Rebuild an array of pickle protocol 5; `axes` permutes the axes, as numpy 2.3 may."""
    array = _Array()
    array.fill(shape, dtype, "C" if order == "K" else order, data)
    if order == "K" and axes is not None:
        array.numpy = array.numpy.transpose(axes)
    return array


def _scalar(dtype: _Dtype, data: object) -> np.generic:
    """Rebuild a numpy scalar."""
    array = _Array()
    array.fill((), dtype, "C", data)
    return array.numpy[()]


def _no_call(*_: object) -> None:
    """Refuse to be called; arrays name their class, and it is not needed."""
    raise _RefusedError("calls numpy.ndarray")


def _encode(text: str, encoding: str) -> bytes:
    """Return the bytes that pickle protocol 2 spells as text."""
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"calls _codecs.encode for {encoding!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """Return no bytes, which pickle protocol 2 spells as a call."""
    return b""


# What stands in for the functions that a file names. numpy 2 renamed numpy.core: files exist with
# either name.
STAND_INS: dict[str, Callable] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _no_call,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (
            ("multiarray._reconstruct", _Array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _array_from_buffer),
        )
    },
    "_codecs.encode": _encode,
    "builtins.bytes": _empty_bytes,
}

# Types that nothing can be done to, admitted as they are.
CONTAINERS = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Load numpy arrays, numpy scalars and plain containers; refuse everything else."""

    def find_class(self, module: str, name: str) -> Callable:
        """Return the stand-in for what the file names."""
        # Python 2's name for it.
        full_name = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        if full_name in CONTAINERS:
            return CONTAINERS[full_name]
        if full_name in STAND_INS:
            return _stand_in(full_name)
        raise _RefusedError(f"asks for {module}.{name}")


def _stand_in(full_name: str) -> Callable:
    """Return a fresh function: a pickle may set attributes of what it is given."""

    def stand_in(*args: object) -> object:
        return STAND_INS[full_name](*args)

    stand_in.__module__, _, name = full_name.rpartition(".")
    stand_in.__name__ = stand_in.__qualname__ = name
    return stand_in


@contextmanager
def _safe_globals_are_ours() -> Iterator[None]:
    """Have torch.load admit the stand-ins, and nothing that was registered elsewhere."""
    with _SAFE_GLOBALS_LOCK:
        registered = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        # The two classes so that their instances may be given a state. Training scripts, timm's
        # and torchvision's among them, keep their options beside the weights: a namespace does
        # nothing.
        torch.serialization.add_safe_globals(
            [_Array, _Dtype, argparse.Namespace, *map(_stand_in, STAND_INS)]
        )
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(registered)


def _plain(value: object, done: dict[int, object]) -> object:
    """Exchange the stand-ins for numpy's own, in whatever containers they lie."""
    if isinstance(value, _Array | _Dtype):
        return value.numpy
    if type(value) not in (dict, OrderedDict, list, tuple):
        return value
    if id(value) not in done:
        if isinstance(value, dict):
            done[id(value)] = {key: _plain(item, done) for key, item in dict.items(value)}
        else:
            items = [_plain(item, done) for item in value]
            done[id(value)] = type(value)(items)  # type: ignore[call-arg]  # a list or tuple
    return done[id(value)]
