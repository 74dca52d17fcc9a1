"""The rate of fused multiply-adds that the cores reach at best, by a small compiled loop.

A library's matrix product is slower than that, by a third for torch's on some CPUs.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from regnet_backbones.errors import UserError

SOURCE = Path(__file__).with_name("fma.cpp")
ROUNDS = 4_000_000  # of a call: about 10 ms
SECONDS = 60  # for the compiler


def fma_call(threads: int, rounds: int = ROUNDS) -> tuple[Callable[[], object], int]:
    """Return a call that keeps so many threads busy with multiply-adds, and how many it does.

    Raises:
        UserError: there is no C++ compiler, or it cannot compile the loop.
    """
    library = _compiled()
    pool = ThreadPoolExecutor(threads)

    def work(_: int) -> float:
        return library.fma_rounds(rounds, 0.5, 1.0)  # ctypes lets other threads run meanwhile

    def call() -> list[float]:
        return list(pool.map(work, range(threads)))

    return call, threads * rounds * library.fma_per_round()


def _compiled() -> ctypes.CDLL:
    """Compile the loop for this CPU in a temporary folder, and load it."""
    compiler = _compiler()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fma.so"
        command = [compiler, "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        try:
            subprocess.run(
                [*command, str(SOURCE), "-o", str(target)],
                check=True,
                capture_output=True,
                timeout=SECONDS,
            )
            library = ctypes.CDLL(str(target))
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"'{Path(compiler).name}' cannot compile fma.cpp: {error}") from error
    library.fma_rounds.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    library.fma_rounds.restype = ctypes.c_float
    library.fma_per_round.restype = ctypes.c_long
    return library


def _compiler() -> str:
    """Return the C++ compiler that torch.compile takes."""
    from torch._inductor import config

    names = [os.environ.get("CXX"), config.cpp.cxx[-1], "clang++", "c++"]
    found = next(filter(None, (shutil.which(name) for name in names if name)), None)
    if found is None:
        raise UserError("no C++ compiler: install g++, or name one in the environment variable CXX")
    return found
