"""An exported file that gets its name only when it is right."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import check_output_folder


def check_path(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Return the path of a file to export to.

    Raises:
        ValueError: it has another suffix than the format's.
        FileNotFoundError: its folder is not there.
        NotADirectoryError, PermissionError: its folder cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise UserError(f"the file must end in {' or '.join(suffixes)}, got '{path}'")
    check_output_folder(path.parent, name="the folder of the file")
    if not path.parent.is_dir():
        raise MissingFileError(f"no folder '{path.parent}' to write '{path.name}' in; make it")
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there in the end gets the name, unless an error is raised.

    The path has the same name in a folder of its own beside the file, because the weights of a
    large ONNX model are a second file, `<name>.data`, which the first one names.

    Raises:
        OSError: the folder cannot be written to.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
        # The file itself last: when it has its name, what it refers to is there.
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == path.name):
            os.replace(part, path.parent / part.name)
