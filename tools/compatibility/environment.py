"""An environment of its own for one end of the ranges, and the tests in it."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from compatibility.ends import End, Outcome, counts_of, pins, requirements

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "lock.txt"
TESTS = ROOT / "tests" / "compatibility.txt"

# Installed first, in the versions of the lock.
TOOLS = ("pip", "setuptools", "wheel", "pytest", "pytest-timeout")


def try_end(end: End, folder: Path, python: str) -> Outcome:
    """Build an environment in an empty folder and run `tests/compatibility.txt` in it, one process.

    What cannot be installed or run is reported in the outcome.

    Args:
        python: path of the Python that the environment is of.
    """
    tell = [python, "-c", "import platform; print(platform.python_version())"]
    version = subprocess.run(tell, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
    try:
        _install(end, folder, python)
    except subprocess.CalledProcessError as error:
        return Outcome(end, version, error=f"not installed: {_last_line(error.output)}")
    versions = _versions(folder)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}")
        command = [_python(folder), *tests, f"@{TESTS}"]
        subprocess.run(command, cwd=ROOT, env=_variables(), check=False)
        if not report.is_file():
            return Outcome(end, version, versions, error="the tests did not run to their end")
        return Outcome(end, version, versions, *counts_of(report))


def _install(end: End, folder: Path, python: str) -> None:
    """Make the environment; raises CalledProcessError with what pip wrote."""
    _run(python, "-m", "venv", "--clear", str(folder))
    locked = dict(line.split("==") for line in LOCK.read_text().splitlines())
    _pip(folder, *(f"{name}=={locked[name]}" for name in TOOLS))
    _pip(folder, *pins(requirements(ROOT / "pyproject.toml"), end))
    _run(_python(folder), "-m", "regnet_backbones", "install-detectron2")
    _pip(folder, "--no-deps", "--requirement", str(ROOT / "requirements" / "evaluators.txt"))


def _pip(folder: Path, *arguments: str) -> None:
    """Install into an environment."""
    _run(_python(folder), "-m", "pip", "install", "--quiet", *arguments)


def _run(*command: str) -> None:
    """Run a command, and keep what it writes for an error."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": _variables()}
    subprocess.run(command, check=True, text=True, **options)


def _variables() -> dict[str, str]:
    """Return the variables of processes that import this repository."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


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
