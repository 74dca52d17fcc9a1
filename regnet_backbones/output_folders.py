"""Folders that a command writes to, looked at before it works for hours."""

import os
from pathlib import Path


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
