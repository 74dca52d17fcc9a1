"""Read what a weights file holds, and never run code that it holds.

Torch's files (zip archives, and the format before torch 1.6), safetensors, and pickles of numpy
arrays. A pickle can name any function and have it called. Here a name stands for nothing but a row
of `REBUILT`; any other object becomes a `StandIn`. Torch's own reader is not used: it compares no
checksums, unpacks tar archives, and runs TorchScript archives.
"""

import errno
import io
import logging
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors.torch
import torch

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.weights.state_dicts import shown

# Format before torch 1.6: pickles of this number, a version, the system, and the content.
OLD_TORCH_MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")

# How what a failed download leaves behind begins.
NO_WEIGHTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"version https://git-lfs")

# numpy's numbers and strings: no objects ("O"), no records ("V"), no dates.
NUMPY_DTYPE = re.compile(r"[biufcSU]\d{1,9}")

EXPORT_HINT = "torch.save(model.state_dict(), path)"

# Others are left aside: torch crashes where quantized numbers have no scale.
TORCH_DTYPE = re.compile(r"bool|b?float(8|16|32|64)\w*|u?int(8|16|32|64)|complex\d+")
DTYPES = {f"torch.{n}": dtype for n, dtype in vars(torch).items() if TORCH_DTYPE.fullmatch(n)}
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64, "UntypedStorage": torch.uint8,
}  # fmt: skip

logger = logging.getLogger(__name__)


def read_content(path: Path) -> object:
    """Read whatever a file holds, by its content: torch's, safetensors or a pickle.

    Return tensors on the CPU, numpy arrays, numbers, texts and containers, and a `StandIn` for each
    object of another kind.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; pass a file in it")
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; pass a weights file")
    with path.open("rb") as file:
        head = file.read(1024)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(NO_WEIGHTS):
        raise UserError(f"{path} is a web page or a git-lfs pointer; download the file itself")
    try:
        if head.startswith(b"PK\x03\x04"):
            return _read_zip(path)
        if OLD_TORCH_MAGIC in head[:32]:
            return _read_old_torch(path)
        if head[8:9] == b"{":
            return safetensors.torch.load_file(path)
        with path.open("rb") as file:
            return _Unpickler(file).load()
    # Damage makes the readers raise nearly anything, and seek places that files do not have.
    except Exception as error:
        is_of_disk = isinstance(error, OSError) and error.errno != errno.EINVAL
        if is_of_disk or isinstance(error, UserError):
            raise
        size = path.stat().st_size
        raise UserError(f"{path} ({size} bytes) is damaged; download it again") from error


class StandIn:
    """An object of a file that is neither tensor, array nor container; `name` is its class's."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<{shown(self.name)}, not loaded>"

    def __reduce__(self) -> tuple:
        return StandIn, (self.name,)

    def _leave_aside(*_: object) -> None:
        """Do nothing with state and items, of an object or of its class."""

    __setstate__ = __setitem__ = append = extend = add = _leave_aside


def _read_zip(path: Path) -> object:
    """Read a zip archive of torch.save; `zipfile` compares the checksum of each record."""
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: name for name in archive.namelist()}
        if "constants.pkl" in records or "data.pkl" not in records:
            kind = "TorchScript, which is a program, or another zip archive"
            raise UserError(f"{path} is {kind}; save the weights with {EXPORT_HINT}")

        def read(key: str, _: int) -> bytearray:
            return bytearray(archive.read(records[f"data/{key}"]))

        return _Unpickler(io.BytesIO(archive.read(records["data.pkl"])), read).load()


def _read_old_torch(path: Path) -> object:
    """Read a file of torch.save before torch 1.6: pickles, then the bytes of the storages."""
    with path.open("rb") as file:
        for _ in ("magic number", "version", "system"):
            _Unpickler(file).load()
        unpickler = _Unpickler(file, lambda _, size: bytearray(size))
        content, keys = unpickler.load(), _Unpickler(file).load()
        if set(keys) != unpickler.storages.keys():
            raise ValueError("the storages are not those of the content")
        for key in keys:
            storage = unpickler.storages[key]
            file.seek(8, io.SEEK_CUR)  # the number of values
            if file.readinto(storage) != len(storage):
                raise EOFError("a storage is cut off")
    return content


class _Unpickler(pickle.Unpickler):
    """An unpickler for which every name is a `_Named`, and `open_storage` reads a storage."""

    def __init__(self, file: BinaryIO, open_storage: Callable[[str, int], bytearray] | None = None):
        super().__init__(file, encoding="latin1")  # of Python 2's strings
        self._open_storage = open_storage
        self.storages: dict[str, bytearray] = {}

    def find_class(self, module: str, name: str) -> object:
        full_name = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)  # of Python 2
        full_name = full_name.replace("numpy._core.", "numpy.core.", 1)  # of numpy 2
        if full_name in DTYPES:
            return DTYPES[full_name]
        if full_name not in REBUILT and not full_name.endswith(("Storage", "ndarray", "Tensor")):
            logger.info("ignored, not run: %s", shown(full_name))
        return type("_Named", (_Named,), {"name": full_name})

    def persistent_load(self, identity: object) -> object:
        """Return the storage that an identity names, as a flat tensor."""
        match identity:
            case ("storage", type() as kind, str() as key, _, int() as length, *views):
                dtype = STORAGES.get(kind.name.rpartition(".")[2])
                if dtype is None or any(views):
                    return StandIn(kind.name)
                if key not in self.storages:
                    self.storages[key] = self._open_storage(key, length * dtype.itemsize)
                # Of Python's memory, which torch cannot make larger.
                data = self.storages[key] or bytearray(dtype.itemsize)
                return torch.frombuffer(data, dtype=dtype)[:length]
            case ("module", made, *_):  # a class, and its source
                return made
        raise ValueError("a persistent id that torch does not write")


class _Named(StandIn):
    """What a name in a pickle stands for: calls make what `REBUILT` has for it, or a stand-in."""

    def __new__(cls, *arguments: object, **_: object) -> object:
        made = REBUILT[cls.name](*arguments) if cls.name in REBUILT else None
        return StandIn(cls.name) if made is None else made


class _Dtype(StandIn):
    """A dtype of numbers or strings, None for others.

    Of its state only the byte order is believed: a false flag has numpy follow numbers as pointers.
    """

    def __init__(self, code: object):
        super().__init__("numpy.dtype")
        is_plain = isinstance(code, str) and NUMPY_DTYPE.fullmatch(code)
        self.dtype = np.dtype(code) if is_plain else None

    def __setstate__(self, state: tuple) -> None:
        if self.dtype is not None and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that takes its state by `_array`; it stays empty, of no number, for objects."""

    def __setstate__(self, state: tuple) -> None:
        *_, shape, dtype, is_fortran, data = state
        values = _array(data, dtype, shape, "F" if is_fortran else "C")
        values = np.empty(0, "V1") if values is None else values
        super().__setstate__((1, values.shape, values.dtype, False, values.tobytes()))

    def __reduce_ex__(self, protocol: int) -> tuple:
        return np.asarray(self).__reduce_ex__(protocol)


def _array(
    data: object, dtype: object, shape: tuple, order: str, axes: tuple | None = None
) -> np.ndarray | None:
    """Return an array, of exactly enough bytes; `axes` permutes it, as numpy 2.3 may."""
    if not isinstance(dtype, _Dtype) or dtype.dtype is None:
        return None
    data = data.encode("latin1") if isinstance(data, str) else data  # Python 2's bytes
    values = np.frombuffer(data, dtype.dtype)
    values = values.reshape(shape, order="C" if order == "K" else order).copy()
    return values if axes is None else values.transpose(axes)


def _scalar(dtype: object, data: object) -> np.generic | None:
    array = _array(data, dtype, (), "C")
    return None if array is None else array[()]


def _tensor(storage: object, offset: int, size: tuple, stride: tuple, *others: object) -> object:
    """Return a tensor, which torch refuses to make of more values than a storage has."""
    if not isinstance(storage, torch.Tensor):
        return None
    dtypes = [other for other in others if isinstance(other, torch.dtype)]
    return storage.view(*(dtypes or [storage.dtype])).as_strided(size, stride, offset)


# What the calls of a pickle make, by the names that they call; None becomes a stand-in.
REBUILT: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.bytes": lambda: b"",
    "_codecs.encode": lambda text, _: text.encode("latin1"),  # which pickle writes
    "numpy.dtype": lambda code, *_: _Dtype(code),
    "numpy.core.multiarray._reconstruct": lambda *_: _Array((0,), np.int8),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    # A subclass of tensors, or one with attributes, becomes a plain tensor.
    "torch._tensor._rebuild_from_type": lambda make, _, arguments, *__: make(*arguments),
    "torch._tensor._rebuild_from_type_v2": lambda make, _, arguments, *__: make(*arguments),
}
