"""Read what a weights file holds, and never run code that it holds.

Torch's files (zip archives, and the format before torch 1.6), safetensors, and pickles of numpy
arrays. A pickle can name any function and have it called; the unpickler here looks up no name. What
is not in its table, `REBUILT`, becomes a `StandIn`, which keeps its name and does nothing. Lengths,
sizes and keys that a file claims are checked against what it has: a small file costs little.
"""

import errno
import io
import logging
import math
import mmap
import operator
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import safetensors.torch
import torch

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.weights.state_dicts import listing, shown

# Format before torch 1.6: pickles of this number, a version, the system, and the content.
OLD_TORCH_MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")

# The longest header that safetensors itself accepts, in bytes.
SAFETENSORS_MAX_HEADER = 100_000_000

# Content may be nested as deep. It may refer to one value several times, and so be larger than its
# file: by this factor, or up to this number of bytes.
MAX_DEPTH = 100
MAX_FACTOR = 16
MAX_BYTES = 2**24

MAX_DIMENSIONS = 64
MAX_NUMBERS = 2**60  # of a tensor or an array

# Keys of dicts and sets: Python spends time on those that are larger, nested or made to collide.
KEY_TYPES = (str, bytes, float, bool, type(None), np.generic, torch.dtype)
LARGEST_KEY = 2**60
LONGEST_KEY = 8

# numpy's numbers and strings: no objects ("O"), no records ("V"), no dates.
PLAIN_DTYPE = re.compile(r"[biufcSU]\d{1,9}")

EXPORT_HINT = "torch.save(model.state_dict(), path)"

DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64, "UntypedStorage": torch.uint8,
}  # fmt: skip

# How what a failed download leaves behind begins.
NO_WEIGHTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"version https://git-lfs")

logger = logging.getLogger(__name__)


def read_content(path: Path) -> object:
    """Read whatever a file holds, by its content: torch's, safetensors or a pickle.

    Return tensors on the CPU, numpy arrays, numbers, texts and containers, and a `StandIn` for each
    object of another kind. Raise ValueError, in one line that names the file, for a folder, and for
    a file that is damaged, of another format, or made to be costly.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, give one file of it")
    if not path.exists():
        raise MissingFileError(f"{path} does not exist, give the path of a weights file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1024)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(NO_WEIGHTS):
        raise UserError(
            f"{path} is a web page, not the weights, or a git-lfs pointer; download the file itself"
        )
    names: set[str] = set()
    try:
        content = _read(path, head)
        _check_size(_measure(content, {}, names)[0], size)
    except _RefusedError as error:
        raise UserError(f"{path} {error}; save the weights with {EXPORT_HINT}") from error
    # Damage makes the readers raise nearly anything, and seek places that files do not have.
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise UserError(
            f"{path} is truncated or damaged ({size} bytes); download or copy it again"
        ) from error
    if names:
        logger.info("%s: left aside, nothing of it was run: %s", path, listing(sorted(names)))
    return content


class StandIn:
    """An object of a file that is neither tensor, array nor container.

    `name` is that of its class or of the function that would make it; `is_class` if it is that.
    """

    __slots__ = ("is_class", "name")

    def __init__(self, name: str, *, is_class: bool = False):
        self.name, self.is_class = name, is_class

    def __repr__(self) -> str:
        return f"<{shown(self.name)}, not loaded>"

    def append(self, *_: object) -> None:
        """Take items, and leave them aside."""

    extend = update = append


class _RefusedError(Exception):
    """A file is not damaged, but cannot be read here."""


def _refuse(problem: str) -> NoReturn:
    raise _RefusedError(problem)


# Returns the bytes of a storage, given its key and how many there must be.
OpenStorage = Callable[[str, int], torch.Tensor]


# Files


def _read(path: Path, head: bytes) -> object:
    """Read a file by the format that its first bytes show."""
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    is_old, header = OLD_TORCH_MAGIC in head[:32], int.from_bytes(head[:8], "little")
    if not is_old and head[8:9] == b"{" and header <= SAFETENSORS_MAX_HEADER:
        return safetensors.torch.load_file(path)
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        return _read_old_torch(file) if is_old else _Unpickler(file, len(file)).load()


def _read_zip(path: Path) -> object:
    """Read a zip archive of torch.save; `zipfile` checks the CRC of each record."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "constants.pkl" in records:
            _refuse("is a TorchScript archive, which is a program")
        if "data.pkl" not in records:
            _refuse("is a zip archive, but not one that torch.save wrote")
        if sum(info.file_size for info in records.values()) > path.stat().st_size:
            raise UserError("records that are larger than the archive")
        if not any(info.CRC for info in records.values()):
            for info in records.values():  # see torch.serialization.set_crc32_options
                info.CRC = None
        order = archive.read(records["byteorder"]) if "byteorder" in records else b"little"
        if order != sys.byteorder.encode():
            _refuse("was written on a machine of another byte order")
        pickled = archive.read(records["data.pkl"])
        return _Unpickler(
            io.BytesIO(pickled),
            len(pickled),
            lambda key, _: _bytes(archive.read(records[f"data/{key}"])),
        ).load()


def _read_old_torch(file: mmap.mmap) -> object:
    """Read a file of torch.save before torch 1.6: pickles, then the bytes of the storages."""
    left = len(file)

    def reserve(_: str, size: int) -> torch.Tensor:
        nonlocal left
        left -= size
        if left < 0:
            raise UserError("storages that are larger than the file")
        return torch.zeros(size, dtype=torch.uint8)

    for _ in ("magic number", "version", "system"):
        _Unpickler(file, len(file)).load()
    unpickler = _Unpickler(file, len(file), reserve)
    content, keys = unpickler.load(), _Unpickler(file, len(file)).load()
    if not isinstance(keys, list) or sorted(keys) != sorted(unpickler.storages):
        raise UserError("the storages are not those of the content")
    for key in keys:
        storage = unpickler.storages[key]
        file.seek(8, io.SEEK_CUR)  # the number of values
        data = file.read(len(storage))
        _check_length(len(data), len(storage))
        storage.copy_(_bytes(data))
    return content


def _bytes(data: bytes) -> torch.Tensor:
    """Return bytes as a tensor that can be written to."""
    if not data:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


# Pickles

# Names of Python 2 and of numpy 2, and those of the table.
RENAMED = (("__builtin__.", "builtins."), ("numpy._core.", "numpy.core."))

# What a call may copy.
COPIED = (str, bytes, bytearray, list, tuple, set, dict)


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, which here looks up no name and calls nothing but `REBUILT`.

    It reads one pickle of `size` bytes, of any protocol, from where the file is.
    """

    def __init__(
        self, file: BinaryIO | mmap.mmap, size: int, open_storage: OpenStorage | None = None
    ):
        super().__init__(file, encoding="latin1")  # of Python 2's strings
        self._size, self._open_storage = size, open_storage
        self.storages: dict[str, torch.Tensor] = {}
        self._copied = 0

    def find_class(self, module: str, name: str) -> object:
        return _named(module, name)

    def get_extension(self, code: int) -> None:
        self.append(StandIn(f"copyreg extension {code}"))

    def persistent_load(self, identity: object) -> object:
        """Return the storage that an identity names."""
        match identity:
            case ("storage", StandIn() as kind, str() as key, _, int() as length, *views):
                dtype = STORAGES.get(kind.name.rpartition(".")[2])
                if dtype and self._open_storage and length >= 0 and not any(views):
                    size = length * dtype.itemsize
                    if key not in self.storages:
                        self.storages[key] = self._open_storage(key, size)
                    _check_length(len(self.storages[key]), size)
                    return self.storages[key].view(dtype)
            case ("module", StandIn() as made, *_):  # a class, and its source
                return made
        return StandIn("a persistent id")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self._instantiate(self.stack.pop(), arguments)

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self.load_reduce()

    def _instantiate(self, made: object, arguments: Sequence[object]) -> None:
        self._count(arguments)
        self.append(_call(made, tuple(arguments)))

    def load_build(self) -> None:
        """Finish an array or a dtype; the state of all else is left aside."""
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, np.dtype | np.ndarray):
            self._count(state)
            (_finish_dtype if isinstance(made, np.dtype) else _finish_array)(made, state)

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(map(_key, items))

    def load_frozenset(self) -> None:
        self.append(frozenset(map(_key, self.pop_mark())))

    def load_bytearray8(self) -> None:
        self.load_binbytes8()  # Python's makes room for the length that a file claims
        self.stack[-1] = bytearray(self.stack[-1])

    def _set(self, items: list[Any]) -> None:
        """Set keys and values in turn of a dict, of nothing else."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
        elif not isinstance(target, StandIn):
            raise TypeError(f"items of a {type(target).__name__}")

    def _count(self, values: Sequence[object]) -> None:
        """Count what is about to be copied; it is in the pickle once, and may be named often."""
        self._copied += sum(len(v) for v in values if isinstance(v, COPIED))
        _check_size(self._copied, self._size)

    dispatch = pickle._Unpickler.dispatch | {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _named(module: str, name: str) -> object:
    """Return a dtype of torch; for all else that a pickle names a stand-in."""
    full_name = f"{module}.{name}"
    for theirs, ours in RENAMED:
        if full_name.startswith(theirs):
            full_name = ours + full_name.removeprefix(theirs)
    return DTYPES.get(full_name) or StandIn(full_name, is_class=True)


def _call(made: object, arguments: tuple) -> object:
    """Make an object, if it is one of `REBUILT`; else a stand-in."""
    if not isinstance(made, StandIn) or not made.is_class:
        return StandIn(f"an object of {getattr(made, 'name', type(made).__name__)}")
    rebuilt = REBUILT[made.name](*arguments) if made.name in REBUILT else None
    return StandIn(made.name) if rebuilt is None else rebuilt


def _key(key: object) -> object:
    """Return a key of a dict or set, checked to be a plain one or a tuple of a few."""
    parts = key if type(key) is tuple and len(key) <= LONGEST_KEY else (key,)
    for part in parts:
        is_small = type(part) is int and abs(part) < LARGEST_KEY
        if not (is_small or isinstance(part, KEY_TYPES)):
            _refuse(f"has a {type(part).__name__} for a key, or a very large number")
    return key


def _measure(
    content: object, known: dict[int, tuple[float, int]], names: set[str]
) -> tuple[float, int]:
    """Return the bytes of content, counted at each reference to it, and how deep it is nested."""
    if isinstance(content, StandIn):
        names.add(content.name)
    if type(content) not in (dict, OrderedDict, list, tuple, set, frozenset):
        length = len(content) if isinstance(content, str | bytes | bytearray) else 0
        return 8 + length + getattr(content, "nbytes", 0), 0
    if id(content) not in known:
        known[id(content)] = (math.inf, 0)  # of one that holds itself
        parts = [*content, *(content.values() if isinstance(content, dict) else ())]
        sizes, depths = zip((8, 0), *(_measure(part, known, names) for part in parts), strict=True)
        known[id(content)] = sum(sizes), 1 + max(depths)
        if max(depths) >= MAX_DEPTH:
            _refuse("is nested too deeply")
    return known[id(content)]


def _check_size(size: float, of_file: int) -> None:
    """Refuse content that is many times as large as its file."""
    if size > max(MAX_BYTES, MAX_FACTOR * of_file):
        _refuse("refers to itself, or to the same values again and again")


def _check_length(length: int, expected: int) -> None:
    if length != expected:
        raise UserError(f"{length} bytes for {expected}")


# What a pickle can make: each returns None for what becomes a stand-in.


def _tensor(
    storage: object,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: object = None,
    hooks: object = None,
    dtype: object = None,
    metadata: object = None,
) -> torch.Tensor | None:
    """Return a tensor; metadata say that it is to be read as its conjugate or negative."""
    if isinstance(dtype, Mapping):  # they are the seventh of older functions
        dtype, metadata = None, dtype
    if not isinstance(storage, torch.Tensor) or metadata:
        return None
    values = storage.view(dtype) if isinstance(dtype, torch.dtype) else storage
    size, (offset, *stride) = _counts(size), _counts((offset, *stride))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= len(values):
        raise UserError(f"{len(values)} values for a tensor of {size}")
    return values.as_strided(size, stride, offset)


def _of_type(rebuild: object, kind: object, arguments: tuple, *_: object) -> object:
    """Return the tensor of a subclass, or of a tensor with attributes, without them."""
    of_torch = isinstance(rebuild, StandIn) and rebuild.name.startswith("torch._utils._rebuild_")
    return _call(rebuild, arguments) if of_torch else None


def _empty_array(kind: object, *_: object) -> np.ndarray | None:
    """Return the array that `_finish_array` is to finish."""
    is_array = isinstance(kind, StandIn) and kind.name == "numpy.ndarray"
    return np.ndarray((0,), np.int8) if is_array else None


def _finish_array(array: np.ndarray, state: tuple) -> None:
    """Give an array the state of `numpy.ndarray.__reduce__`, of bytes exactly enough.

    Objects and records are left aside: it stays without values, of a type that no tensor has.
    """
    *_, shape, dtype, is_fortran, data = state
    if isinstance(dtype, np.dtype):
        data = _checked_bytes(data, shape, dtype)
        array.__setstate__((1, shape, dtype, bool(is_fortran), data))
    else:
        array.__setstate__((1, (0,), np.dtype("V1"), False, b""))


def _array(
    data: object, dtype: object, shape: tuple, order: str, axes: tuple | None = None
) -> np.ndarray | None:
    """Return an array of pickle protocol 5; `axes` permutes the axes, as numpy 2.3 may."""
    if not isinstance(dtype, np.dtype):
        return None
    data = _checked_bytes(data, shape, dtype)
    array = np.ndarray(shape, dtype, data, order="C" if order == "K" else order)
    return array.transpose(axes) if order == "K" and axes is not None else array


def _scalar(dtype: object, data: object) -> np.generic | None:
    """Return a scalar of numpy."""
    array = _array(data, dtype, (), "C")
    return None if array is None else array[()]


def _checked_bytes(data: object, shape: tuple, dtype: np.dtype) -> bytes | bytearray:
    """Return the bytes of an array, of which there must be exactly enough."""
    if isinstance(data, str):  # Python 2 wrote bytes as a string
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise TypeError(f"array data is a {type(data).__name__}")
    _check_length(len(data), math.prod(_counts(shape)) * dtype.itemsize)
    return data


def _dtype(code: object, *_: object) -> np.dtype | None:
    """Return a dtype of numbers or strings; a copy, because `_finish_dtype` changes it."""
    is_plain = isinstance(code, str) and PLAIN_DTYPE.fullmatch(code)
    return np.dtype(code, False, True) if is_plain else None


def _finish_dtype(dtype: np.dtype, state: tuple) -> None:
    """Set the byte order, and nothing else.

    numpy itself believes the item size and the flags of a state, and a false flag has it follow
    numbers as pointers.
    """
    order = state[1] if state[1] in ("<", ">", "=", "|") else "="
    dtype.__setstate__((3, order, None, None, None, dtype.itemsize, dtype.alignment, dtype.flags))


def _ordered(items: Iterable = ()) -> OrderedDict:
    """Return an ordered dict; older protocols give its items."""
    return OrderedDict((_key(key), value) for key, value in items)


def _encode(text: str, encoding: str) -> bytes | None:
    """Return the bytes that pickle protocol 2 spells as text."""
    return text.encode("latin1") if encoding in ("latin1", "latin-1") else None


def _counts(numbers: Iterable) -> list[int]:
    """Return sizes, strides or offsets, checked to be whole numbers of a tensor."""
    numbers = [operator.index(number) for number in numbers]
    if len(numbers) > MAX_DIMENSIONS + 1 or not all(0 <= n < MAX_NUMBERS for n in numbers):
        raise UserError("sizes, strides or an offset that no tensor has")
    return numbers


REBUILT: dict[str, Callable] = {
    "collections.OrderedDict": _ordered,
    "builtins.set": lambda items=(): set(map(_key, items)),
    "builtins.frozenset": lambda items=(): frozenset(map(_key, items)),
    "builtins.bytes": lambda *given: None if given else b"",
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array,
    "torch.Size": lambda sizes=(): torch.Size(_counts(sizes)),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type": _of_type,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}
