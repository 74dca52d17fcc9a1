"""Functions that draw in the processes of tests/test_drawing.py, and import little."""

import os
import time
from pathlib import Path


def draw(file, what, pixels=()):
    """Write a file, or do what goes wrong."""
    if what == "raise":
        raise ArithmeticError("something is wrong")
    if what == "no folder":
        file = Path("/nowhere") / "at all"
    if what == "exit":
        os._exit(7)
    if what == "hang":
        time.sleep(600)
    if what == "slow":
        time.sleep(0.02)
    file.write_text(f"{os.getpid()} {list(pixels)}")
