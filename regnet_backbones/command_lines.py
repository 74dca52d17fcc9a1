"""What command lines say: sizes of images, and how others can repeat one."""

from collections.abc import Sequence
from pathlib import Path


def parse_size(text: str) -> tuple[int, int]:
    """Read a size of images, "512" or "800x1344" (height x width).

    Raises:
        ValueError: it is no such thing.
    """
    height, _, width = text.partition("x")
    sides = (height, width or height)
    if not all(side.isdecimal() and int(side) > 0 for side in sides) or text.endswith("x"):
        raise ValueError(f"a size is a side, 512, or height x width, 800x1344; got '{text}'")
    return int(sides[0]), int(sides[1])


def plain_command(tool: str, argv: Sequence[str], output: str | None) -> str:
    """Return the command line as others can repeat it, without a path of this machine.

    Args:
        tool: path of the script in the repository.
        argv: its arguments.
        output: one of them, of which only the last part is kept.
    """
    words = [
        word.removesuffix(output) + Path(output).name if output and word.endswith(output) else word
        for word in argv
    ]
    return " ".join([f"python {tool}", *words])
