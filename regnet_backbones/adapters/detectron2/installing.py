"""Installing Detectron2 0.6 into an environment, with any pip and any setuptools.

Detectron2 is not on the package index under its own name. `pb1-detectron2` is its source
distribution, whose Python files are those of upstream at d1e04565. pip from 26.3 on refuses its
metadata, current setuptools cannot build it, and it installs a stray top-level package `tools`. So
a wheel of the Python files is built in a temporary environment with the build tools pinned here,
without requirements, and with that package, Detectron2's command lines, as `detectron2.tools`: pip
of that environment installs it.
"""

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from email import message_from_string
from pathlib import Path

from regnet_backbones.adapters.detectron2 import startup
from regnet_backbones.errors import MissingPackageError, UserError

SDIST = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
BUILD_TOOLS = ("pip==26.2.1", "setuptools==80.10.2", "wheel==0.48.0")

# Its setup.py would compile the C++ extension, whose sources the distribution does not hold.
WITHOUT_EXTENSION = ("--global-option=build_py", "--build-option=--skip-build")

STARTUP_NAME = "regnet_backbones_with_detectron2"
DROPPED = ("Requires-Dist", "Provides-Extra", "Dynamic")  # of the metadata

logger = logging.getLogger(__name__)


def installed_detectron2() -> str | None:
    """Return the folder of a Detectron2 that this process can import, None if there is none."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return str(spec.submodule_search_locations[0])


def install(wheels: Path | None = None) -> str:
    """Install Detectron2 into this environment, or write its wheel to a folder; return its name.

    pip downloads the source distribution (1 MB), whose hash is checked, and the build tools.
    """
    if importlib.util.find_spec("torch") is None:
        text = "building Detectron2 needs torch; install it first: pip install torch torchvision"
        raise MissingPackageError(text, name="torch")
    with tempfile.TemporaryDirectory(prefix="detectron2_") as name:
        folder = Path(name)
        python = _environment(folder)
        pip = (python, "-m", "pip")
        _run([*pip, "install", "--quiet", *BUILD_TOOLS], "the build tools cannot be installed")
        settings = " ".join(f'--config-settings="{option}"' for option in WITHOUT_EXTENSION)
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{SDIST} {settings} --hash=sha256:{SHA256}\n")
        build = ("wheel", "--quiet", "--no-deps", "--use-pep517", "--no-build-isolation")
        where = ("-r", str(requirements), "-w", str(folder / "built"))
        _run([*pip, *build, *where], f"{SDIST} cannot be built")
        (built,) = (folder / "built").iterdir()
        tool = (python, "-m", "wheel")
        _run([*tool, "unpack", "-d", str(folder / "files"), str(built)], "wheel unpack failed")
        (files,) = (folder / "files").iterdir()
        _clean(files)
        packed = folder / "packed" if wheels is None else wheels
        packed.mkdir(parents=True, exist_ok=True)
        _run([*tool, "pack", "-d", str(packed), str(files)], "wheel pack failed")
        (wheel,) = packed.glob("pb1_detectron2-*.whl")
        if wheels is None:
            here = ("--python", sys.executable, "install", "--quiet", "--no-deps")
            _run([*pip, *here, str(wheel)], f"{wheel.name} cannot be installed")
        return wheel.name


def write_startup(folder: Path) -> None:
    """Write the two files to a folder of packages that let detectron2 be imported first."""
    shutil.copy(startup.__file__, folder / f"{STARTUP_NAME}.py")
    (folder / f"{STARTUP_NAME}.pth").write_text(f"import {STARTUP_NAME}\n")


def _clean(files: Path) -> None:
    """Make an unpacked wheel one of Detectron2 alone, for any Python and machine; add startup.

    Its requirements are pins of 2021; the extra `detectron2` of this package has the real ones.
    """
    (files / "tools").rename(files / "detectron2" / "tools")
    write_startup(files)
    (info,) = files.glob("*.dist-info")
    (info / "top_level.txt").write_text(f"detectron2\n{STARTUP_NAME}\n")
    for name, dropped, replaced in (
        ("METADATA", DROPPED, {}),
        ("WHEEL", ("Tag",), {"Root-Is-Purelib": "true", "Tag": "py3-none-any"}),
    ):
        headers = message_from_string((info / name).read_text(encoding="utf-8"))
        for header in (*dropped, *replaced):
            del headers[header]
        for header, value in replaced.items():
            headers[header] = value
        (info / name).write_text(headers.as_string(), encoding="utf-8")


def _environment(folder: Path) -> str:
    """Make a virtual environment with pip in a folder, and return its Python."""
    place = folder / "environment"
    try:
        venv.create(place, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"cannot make a virtual environment ({error}); install Python's module venv "
            "(python3-venv on Debian and Ubuntu)"
        ) from error
    # Behind its own packages, it sees torch of this environment.
    (purelib,) = place.rglob("site-packages")
    outer = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (purelib / "outer.pth").write_text("\n".join(outer) + "\n")
    return str(place / ("Scripts" if os.name == "nt" else "bin") / "python")


def _run(command: Sequence[str], problem: str) -> None:
    """Run a command; raise UserError with its last lines if it fails."""
    logger.info("running %s", " ".join(command))
    # Variables such as PYTHONPATH would bring packages of this environment before those pinned.
    hidden = {"PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV", "PIP_USER", "PIP_TARGET"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode:
        said = "\n".join((ended.stderr or ended.stdout).strip().splitlines()[-12:])
        raise UserError(f"{problem}:\n{said}")
