"""Sizes of images as a command line gives them."""


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
