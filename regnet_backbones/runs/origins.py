"""Where an error was raised, and as what: also of those that come from another process as text.

A worker of torch's DataLoader and a process of `torch.multiprocessing` hand over the traceback as
text, inside an error of another type or without the numbers that the first one had.
"""

import builtins
import re
import sys
import traceback
from dataclasses import dataclass

# The innermost frame of a traceback, its line of code, and the error behind it to the very end.
LAST_FRAME = re.compile(
    r'^  File "(?P<file>[^"\n]+)", line \d+, in [^\n]*\n'
    r"(?P<code>(?:    [^\n]*\n)*)"
    r"(?P<kind>[A-Za-z_][\w.]*)(?:: (?P<text>.*))?\Z",
    re.MULTILINE | re.DOTALL,
)
ERRNO = re.compile(r"\[Errno (\d+)\]")


@dataclass(frozen=True)
class Origin:
    """What was raised first.

    Attributes:
        kind: the type of the error, `Exception` for one that this process does not know.
        text: its message.
        number: its errno, None if it has none.
        file: of the code that raised it, "" for an error that was never raised.
        by_statement: a `raise` of that code did, and not a call or an operator.
    """

    kind: type[BaseException]
    text: str
    number: int | None
    file: str
    by_statement: bool


def origin_of(error: BaseException) -> Origin:
    """Find what was raised first: by a worker or a process, if one has handed it over as text."""
    # A message may be a traceback with another inside: the innermost frame is the last one.
    frames = str(error.args[0]).rstrip() if error.args else ""
    start = frames.rfind('\n  File "')
    found = LAST_FRAME.search(frames, start + 1) if start >= 0 else None
    if found is None:
        return _origin_here(error)
    kind, text = _type_named(found["kind"]), found["text"] or ""
    if issubclass(kind, KeyError):
        text = text.strip("\"'")
    number = ERRNO.match(text)
    return Origin(
        kind,
        text,
        int(number[1]) if number else None,
        found["file"],
        found["code"].lstrip().startswith("raise"),
    )


def _origin_here(error: BaseException) -> Origin:
    """Look at an error of this process."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    number = getattr(error, "errno", None)
    if number is None and isinstance(error, OSError):  # one whose text alone a worker handed over
        found = ERRNO.match(text)
        number = int(found[1]) if found else None
    frames = traceback.extract_tb(error.__traceback__)
    file, line = (frames[-1].filename, frames[-1].line or "") if frames else ("", "")
    return Origin(
        type(error),
        text,
        number if isinstance(number, int) else None,
        file,
        line.startswith("raise"),
    )


def _type_named(name: str) -> type[BaseException]:
    """Return an error's type by the name that a traceback shows."""
    module, _, short = name.rpartition(".")
    found = getattr(sys.modules.get(module, builtins), short, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else Exception
