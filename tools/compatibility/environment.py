"""An environment of its own for one end of the ranges, and the tests in it."""

import json
import os
import platform
import re
import subprocess
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from compatibility.ends import End, Outcome, counts_of, pins, requirements

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "lock.txt"
TESTS = ROOT / "tests" / "compatibility.txt"

# Installed first and in the versions of the lock: detectron2's recipe needs them, tests need these.
TOOLS = ("pip", "setuptools", "wheel", "pytest", "pytest-timeout")


def try_end(end: End, folder: Path) -> Outcome:
    """Build an environment in an empty folder and run `tests/compatibility.txt` in it, one process.

    What cannot be installed or run is told in the outcome.
    """
    version = platform.python_version()
    try:
        _install(end, folder)
    except subprocess.CalledProcessError as error:
        return Outcome(end, version, error=f"not installed: {_last_line(error.output)}")
    versions = _versions(folder)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [_python(folder), *tests, f"@{TESTS}"]
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if not report.is_file():
            return Outcome(end, version, versions, error="the tests did not run to their end")
        return Outcome(end, version, versions, *counts_of(report))


def _install(end: End, folder: Path) -> None:
    """Make the environment; raises CalledProcessError with what pip wrote."""
    venv.create(folder, with_pip=True, clear=True)
    locked = dict(line.split("==") for line in LOCK.read_text().splitlines())
    _pip(folder, *(f"{name}=={locked[name]}" for name in TOOLS))
    _pip(folder, *pins(requirements(ROOT / "pyproject.toml"), end))
    recipe = ("--no-deps", "--use-pep517", "--no-build-isolation", "--no-cache-dir")
    for name in ("detectron2", "evaluators"):
        _pip(folder, *recipe, "--requirement", str(ROOT / "requirements" / f"{name}.txt"))


def _pip(folder: Path, *arguments: str) -> None:
    """Install into an environment."""
    command = (_python(folder), "-m", "pip", "install", "--quiet", *arguments)
    subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _versions(folder: Path) -> dict[str, str]:
    """Return the version of each package by its normalised name."""
    command: Sequence[str] = (_python(folder), "-m", "pip", "list", "--format=json")
    listed = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    return {
        re.sub(r"[-_.]+", "-", row["name"]).lower(): row["version"] for row in json.loads(listed)
    }


def _python(folder: Path) -> str:
    """Return the path of an environment's Python."""
    return str(folder / "bin" / "python")


def _last_line(output: str) -> str:
    """Return what pip says in the end."""
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    return errors[-1] if errors else output.strip().rpartition("\n")[2]
