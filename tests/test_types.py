"""The public API has types: a user's code passes `mypy --strict`, and mistakes in it do not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "typing"

ERROR = re.compile(r"^(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", re.MULTILINE)


@pytest.fixture(scope="module")
def found():
    """Return what mypy finds: file, line and kind of each error. The cache is `make lint`'s."""
    options = ("--strict", "--follow-imports=silent", "--ignore-missing-imports")
    cache = f"--cache-dir={ROOT / '.mypy_cache'}"
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", *options, cache, *FOLDER.glob("*.py")],
        capture_output=True,
        text=True,
        cwd=FOLDER,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    errors = [(name, int(line), kind) for name, line, kind in ERROR.findall(result.stdout)]
    assert f"Found {len(errors)} errors in" in result.stdout
    return errors


def test_what_the_readme_does_has_the_types_it_gives(found):
    assert [error for error in found if error[0] == "public_api"] == []


def test_mistakes_are_found(found):
    lines = (FOLDER / "mistakes.py").read_text().splitlines()
    wanted = [(i, line.split("  # ")[1]) for i, line in enumerate(lines, 1) if "  # " in line]
    assert len(wanted) == 9
    assert [error[1:] for error in found if error[0] == "mistakes"] == wanted


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "regnet_backbones" / "py.typed").read_bytes() == b""
