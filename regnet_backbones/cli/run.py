"""How every command ends: what is printed, and the exit status."""

import errno
import os
import select
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence

from regnet_backbones.errors import UserError, from_traceback
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


def run_command(command: Callable[[], int]) -> int:
    """Run a command that returns its exit status, and print an error that users can fix in a line.

    Any other error keeps its traceback.
    """
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


def subcommand(parser: Callable[[str], ArgumentParser]) -> Callable[[Function], Subcommand]:
    """Make a subcommand, which takes arguments and how it is called, of what takes parsed ones.

    Its `parser` is kept for `completion`.
    """

    def decorate(function: Function) -> Subcommand:
        def run(argv: Sequence[str], prog: str) -> int:
            args = parser(prog).parse_args(argv)
            return run_command(lambda: function(args))

        run.parser = parser
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
