"""Files: written whole, read as text or JSON, compared by content."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from regnet_backbones.errors import UserError

# Name of a file while `write_whole` writes it.
PART = ".{}.part"


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; raise UserError for others."""
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        is_utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        kind = "UTF-16" if is_utf_16 else "an encoding other than UTF-8"
        raise UserError(f"'{path}' is text in {kind} ({error}); save it as UTF-8") from error


def read_json(path: str | Path) -> object:
    """Read a JSON file; raise UserError if it is not JSON in UTF-8, or nested too deeply."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"'{path}' is nested too deeply for a JSON file") from error
    except ValueError as error:
        raise UserError(f"'{path}' is not a JSON file: {error}") from error


def files_below(folder: Path, inside: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files below a folder, by name; linked folders, too, and nothing hidden.

    `inside` are the resolved folders above it: a link to one of them is not followed.
    """
    resolved = os.path.realpath(folder)
    for path in () if resolved in inside else sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from files_below(path, (*inside, resolved))
        else:
            yield path


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of the content of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all, as `whole_file` does."""
    with whole_file(path) as file:
        write(file)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is whole or not at all: `.<name>.part` first, renamed when it is on disk.

    A missing folder is made. Two processes must not write the same file at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(PART.format(path.name))
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: str | Path) -> None:
    """Remove what processes that were killed in `write_whole` left in a folder, if it exists."""
    for part in Path(folder).glob(PART.format("*")):
        part.unlink(missing_ok=True)


def check_output_folder(folder: str | Path, *, name: str) -> None:
    """Raise UserError if the folder of an option or key `name` cannot be written to."""
    if "://" in str(folder):
        return
    path = Path(folder).absolute()
    existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise UserError(f"{name} must be a folder, got '{folder}': '{existing}' is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{name} '{folder}' cannot be written to: '{existing}' is read-only")
