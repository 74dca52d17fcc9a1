"""Folders that a command writes to: looked at before it works for hours, cleared of other runs."""

import itertools
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

# Folders for the files of earlier runs, numbered from 1.
EARLIER = "earlier_run_{}"

logger = logging.getLogger(__name__)


def check_output_folder(folder: str | Path, *, name: str) -> None:
    """Check that a folder can be written to, or made; nothing is made.

    Args:
        folder: of this machine; one with a scheme, such as `s3://bucket/run`, is not looked at.
        name: of the option or key that gave it.

    Raises:
        NotADirectoryError: it, or a folder above it, is a file.
        PermissionError: it, or the folder that it would be made in, cannot be written to.
    """
    if "://" in str(folder):
        return
    path = Path(folder).absolute()
    existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise NotADirectoryError(
            f"{name} must be a folder, got '{folder}', and '{existing}' is none; choose another"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{name} '{folder}' cannot be written to ('{existing}' is read-only for you); choose "
            "another"
        )


def set_aside(
    folder: Path, files: Iterable[Path], *, name: str, in_use: Iterable[Path] = ()
) -> Path:
    """Move the files of an earlier run out of the way of a new one, and say so in a warning.

    Args:
        folder: of the runs; the files go to a new folder in it, each to where it lay.
        files: in the folder, or in folders of it.
        name: of the option or key that gave the folder.
        in_use: as `files`, but open for appending in this process: their content is moved.

    Returns:
        The new folder.
    """
    numbered = (folder / EARLIER.format(number) for number in itertools.count(1))
    aside = next(place for place in numbered if not os.path.lexists(place))
    for file in files:
        file.replace(_place(aside, file.relative_to(folder)))
    for file in in_use:
        shutil.copyfile(file, _place(aside, file.relative_to(folder)))
        os.truncate(file, 0)
    logger.warning(
        "'%s' has an earlier run in it: this is a new one, and the files of the other are in '%s' "
        "now; another %s keeps both apart, --resume goes on with a run",
        *(folder, aside, name),
    )
    return aside


def _place(folder: Path, name: Path) -> Path:
    """Return the path of a file to be, whose folder is there."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
