"""What command lines say: sizes of images, and how others can repeat one."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from regnet_backbones.errors import UserError


def parse_size(text: str) -> tuple[int, int]:
    """Read a size of images, "512" or "800x1344" (height x width).

    Raises:
        ValueError: it is no such thing.
    """
    height, _, width = text.partition("x")
    sides = (height, width or height)
    if not all(side.isdecimal() and int(side) > 0 for side in sides) or text.endswith("x"):
        raise UserError(f"a size is a side, 512, or height x width, 800x1344; got '{text}'")
    return int(sides[0]), int(sides[1])


def plain_command(tool: str, argv: Sequence[str], paths: Iterable[str | None]) -> str:
    """Return the command line as a shell repeats it, without a path of this machine.

    Args:
        tool: path of the script in the repository.
        argv: its arguments.
        paths: those of them of which only the last part is kept.
    """
    words, given = [], [path for path in paths if path]
    for word in argv:
        path = max((path for path in given if word.endswith(path)), key=len, default="")
        words.append(word.removesuffix(path) + Path(path).name if path else word)
    return shlex.join(["python", tool, *words])
