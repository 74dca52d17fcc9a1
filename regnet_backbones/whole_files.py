"""Files that are whole under their name at every moment."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all: beside its name first, which it gets when it is on disk.

    What a killed process left behind, `.<name>.part`, is overwritten by the next one. Two that
    write the same file at the same time are not provided for.

    Args:
        path: the file; a missing folder is made, an existing file replaced.
        write: writes the content to an open binary file.

    Raises:
        OSError: the file cannot be written; the one that was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
