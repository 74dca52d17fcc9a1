"""What commands have in common: parsers, names of configs, sizes of images, and how they end."""

import argparse
import errno
import os
import re
import select
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from regnet_backbones import config_path
from regnet_backbones.errors import UnknownNameError, UserError, from_traceback
from regnet_backbones.runs.stopping import StoppedError

Function = Callable[[Namespace], int]
Subcommand = Callable[[Sequence[str], str], int]

INTERRUPTED, NOBODY_READS = 130, 141  # as shells report them

SMALLER = "use a smaller batch, smaller images or a smaller network"
FREE_SPACE = "free some space; files that were complete before still are"
HINTS = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: "raise the limit of the size of files, or free some space",
    errno.EMFILE: "use fewer data workers, or raise the limit with `ulimit -n 65536`",
    errno.ENOMEM: SMALLER,
    errno.EACCES: "choose a path that you have access to",
    errno.EROFS: "choose a folder that can be written to",
}

# Packages that are imported as they are, by the extra that installs them.
EXTRAS = {
    "train": ("jsonargparse", "lightning", "segmentation_models_pytorch", "torchmetrics"),
    "design": ("matplotlib", "scipy", "tabulate", "tqdm"),
    "report": ("jinja2", "pycocotools", "tensorboard"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "data": ("defusedxml",),
    "coco": ("faster_coco_eval", "pycocotools"),
    "completion": ("shtab",),
    "video": ("cv2",),
}


class ArgumentError(UserError, argparse.ArgumentTypeError):
    """An invalid value; argparse prints the message only of its own type."""


def command_parser(prog: str, description: str) -> ArgumentParser:
    """Return a parser that prints the description as it is, `%(prog)s` in it replaced."""
    return ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_split_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that split one dataset into two."""
    add = parser.add_argument
    add("--val-fraction", type=float, metavar="F", help="fraction of the images to validate on")
    add("--split-seed", type=int, default=0, metavar="N", help="seed of the split (default: 0)")
    text = "keep images together whose names have the same first group of this expression"
    add("--group", metavar="REGEX", help=text)


def find_config(given: str, trainer: Literal["detectron2", "semseg"]) -> str:
    """Return the path of a config that is a file, or that comes with the package.

    Of the package, `given` is a name or a path below `configs/`. Anything else is left as it is.
    """
    packaged = config_path() / given.removeprefix("configs/")
    if given and packaged.is_file() and not Path(given).exists():
        return str(packaged)
    if Path(given).exists() or not re.fullmatch(r"[\w-]+", given):
        return given
    known = {path.stem: path for path in sorted(config_path(trainer).rglob("*.yaml"))}
    if given not in known:
        near = get_close_matches(given, known, n=2)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UnknownNameError(
            f"no config '{given}'; {hint}the package has {len(known)} in {config_path(trainer)}"
        )
    return str(known[given])


def parse_size(text: str) -> tuple[int, int]:
    """Read a size of images, "512" or "800x1344" (height x width)."""
    found = re.fullmatch(r"0*([1-9]\d*)(?:x0*([1-9]\d*))?", text)
    if found is None:
        raise ArgumentError(f"a size must be a side (512) or HEIGHTxWIDTH (800x1344), got '{text}'")
    return int(found[1]), int(found[2] or found[1])


def run_command(command: Callable[[], int]) -> int:
    """Run a command; print an error that users can fix in one line, and return the exit status."""
    try:
        status = command()
        sys.stdout.flush()  # a reader that has ended is noticed here, not when Python exits
        return status
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return NOBODY_READS
        line, status = describe(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        return status


def subcommand(
    description: str, add_arguments: Callable[[ArgumentParser], object]
) -> Callable[[Function], Subcommand]:
    """Make a subcommand, which takes arguments and how it is called, of what takes parsed ones.

    The arguments before they were parsed are `argv` of those.
    """

    def build_parser(prog: str) -> ArgumentParser:
        parser = command_parser(prog, description)
        add_arguments(parser)
        return parser

    def decorate(function: Function) -> Subcommand:
        def run(argv: Sequence[str], prog: str) -> int:
            args = build_parser(prog).parse_args(argv, Namespace(argv=argv))
            return run_command(lambda: function(args))

        run.parser = build_parser  # for `completion`
        return run

    return decorate


def describe(error: BaseException) -> tuple[str | None, int]:
    """Return the line of an error, None if it needs its traceback, and the exit status."""
    torch = sys.modules.get("torch")
    if torch and isinstance(error, torch.multiprocessing.ProcessRaisedException):
        error = from_traceback(str(error)) or error
    if isinstance(error, UserError):
        return f"error: {error}", error.status
    if isinstance(error, StoppedError):
        return str(error), error.status
    if isinstance(error, ModuleNotFoundError):
        for extra, packages in EXTRAS.items():
            if error.name in packages:
                return f"error: {error}; `pip install 'regnet-backbones[{extra}]'`", 2
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted {error}".rstrip(), INTERRUPTED
    if isinstance(error, (MemoryError, *((torch.OutOfMemoryError,) if torch else ()))):
        said = (str(error).splitlines() or ["no details"])[-1]
        return f"error: out of memory ({said}); {SMALLER}", 2
    if torch and isinstance(error, torch.multiprocessing.ProcessExitedException):
        hint = "it was probably killed because the machine ran out of memory: "
        return f"error: {error}; {hint}{SMALLER}, or fewer data workers", 2
    # While torch closes a file that could not be written, it raises an error of its own.
    system = error.__context__ if isinstance(error, RuntimeError) else error
    if isinstance(system, OSError) and system.errno is not None:
        place = f": '{system.filename}'" if system.filename else ""
        hint = f"; {HINTS[system.errno]}" if system.errno in HINTS else ""
        return f"error: {system.strerror}{place}{hint}", 2
    return None, 1


def _nobody_reads() -> bool:
    """Return whether the reader of stdout has ended; drop what is left to print then."""
    stdout = select.poll()
    stdout.register(sys.stdout.fileno(), 0)  # no event but an error
    if ended := bool(stdout.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ended
