"""Progress of long work: a bar on a terminal; in a file or a pipe a line every few seconds."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

SECONDS = 10.0  # between two lines
LINE = "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left"


def progress(items: Iterable | None = None, **options: object) -> tqdm:
    """Return items that show on stderr how many of them were taken; `options` are tqdm's."""
    if not sys.stderr.isatty():
        options |= {"file": _Lines(), "bar_format": LINE, "mininterval": SECONDS, "delay": SECONDS}
    return tqdm(items, **options)


class _Lines:
    """A file that makes a line of what tqdm writes over the line before."""

    def write(self, text: str) -> None:
        if text := text.strip():
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Do nothing: each line is flushed."""
