"""`import detectron2` before `import regnet_backbones`, in the environment of `make install`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STARTUP = sorted((ROOT / "requirements" / "startup").glob("*.p*"))

# As Python starts where the files were installed, and nowhere else.
START = """
import site, sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "WithDetectron2"]
sys.modules.pop("regnet_backbones_with_detectron2", None)
sys.path.insert(0, {folder!r})
site.addsitedir({folder!r})
assert "regnet_backbones_with_detectron2" in sys.modules
"""


@pytest.fixture
def run(tmp_path):
    """Run code in a fresh interpreter that has the hook, and return what it prints."""
    for file in STARTUP:
        shutil.copy(file, tmp_path)

    def run(code):
        command = [sys.executable, "-W", "ignore", "-c", START.format(folder=str(tmp_path)) + code]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

    return run


def test_either_order(run):
    code = """
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer

import regnet_backbones
print(hasattr(get_cfg().MODEL, "REGNET"))
"""
    assert run(code) == ["True"]


def test_nothing_is_imported_without_detectron2(run):
    code = "import json, email; print(*{'regnet_backbones', 'wrapt', 'torch'} & set(sys.modules))"
    assert run(code) == []


def test_a_detectron2_without_this_package_is_as_it_was(run):
    code = """
sys.modules["regnet_backbones"] = None  # as if it were not installed
from detectron2.config import get_cfg
print(hasattr(get_cfg().MODEL, "REGNET"))
"""
    assert run(code) == ["False"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_install_installs_it():
    command = ["make", "--dry-run", "--always-make", "install"]
    steps = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    (copied,) = [line for line in steps.splitlines() if line.startswith("cp ")]
    assert all(str(file.relative_to(ROOT)) in copied for file in STARTUP)
    assert len(STARTUP) == 2
    assert steps.index("requirements/detectron2.txt") < steps.index(copied)
