"""Imports point inward: standard library, then torch and timm, then frameworks, then tools."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import regnet_backbones

ROOT = Path(regnet_backbones.__file__).parent

FRAMEWORKS = {
    "detectron2",
    "fvcore",
    "iopath",
    "lightning",
    "jsonargparse",
    "segmentation_models_pytorch",
    "torchmetrics",
}
HEAVY = {"torch", "torchvision", "timm", "safetensors"}

# A module's ring by the first part of its name below the package: what it may import.
RINGS = {
    "errors": 0,
    "runs": 2,
    "cli": 3,
    "measure": 1,
    "design": 0,
    "zoo": 0,
    "shapes": 0,
    "image_files": 0,
    "command_lines": 0,
    "files": 0,
    "yaml_files": 0,
    "stopping": 0,
    "__init__": 0,
    "norm": 1,
    "weights": 1,
    "backbone": 1,
    "timing": 1,
    "memory": 1,
    "look": 1,
    "randomness": 1,
    "failures": 1,
    "latency": 1,
    "optimize": 1,
    "export": 1,
    "adapters": 2,
    "detection": 2,
    "semseg": 2,
    "inference": 2,
    "benchmark": 2,
    "design_tool": 2,
    "report": 2,
}
MODULES = sorted(ROOT.rglob("*.py"))


def imported_names(path, everywhere=True):
    """Name what a module imports; without `everywhere` only at its top level."""
    tree = ast.parse(path.read_text())
    type_checking = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    nodes = ast.walk(tree) if everywhere else ast.iter_child_nodes(tree)
    for node in nodes:
        if node in type_checking:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ring_of(path):
    return RINGS[path.relative_to(ROOT).parts[0].removesuffix(".py")]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_imports_outward(path):
    ring = ring_of(path)
    for name in imported_names(path):
        top = name.split(".")[0]
        assert ring == 2 or top not in FRAMEWORKS, f"{path} imports {name}"
        assert ring >= 1 or top not in HEAVY, f"{path} imports {name}"
        if top == "regnet_backbones" and path.name != "__init__.py":
            part = name.split(".")[1] if "." in name else "__init__"
            assert RINGS.get(part, 0) <= ring, f"{path} imports {name}"


def test_adapters_do_not_import_each_other():
    adapters = ROOT / "adapters"
    frameworks = {p.name.split("_")[0].removesuffix(".py") for p in adapters.iterdir()}
    for path in adapters.rglob("*.py"):
        own = path.relative_to(adapters).parts[0].split("_")[0].removesuffix(".py")
        for name in imported_names(path):
            if name.startswith("regnet_backbones.adapters."):
                other = name.split(".")[2].split("_")[0]
                assert other == own or other not in frameworks, f"{path} imports {name}"


@pytest.mark.parametrize(
    "module",
    [
        "regnet_backbones",
        "regnet_backbones.zoo",
        *(f"regnet_backbones.design.{path.stem}" for path in (ROOT / "design").glob("[a-z]*.py")),
    ],
)
def test_the_package_and_ring_zero_are_light(module):
    code = (
        f"import sys, {module}; "
        f"print(*sorted({FRAMEWORKS | HEAVY | {'numpy', 'PIL'}!r} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_public_names_are_there():
    for package in (regnet_backbones, regnet_backbones.design):
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018


def test_without_detectron2_the_rest_works_and_training_says_what_to_install():
    code = """
import sys
sys.modules["detectron2"] = None  # as if it were not installed
from importlib import util
util.find_spec = lambda name: None
from regnet_backbones import RegNetFeatures
RegNetFeatures("regnetx_002")
try:
    import regnet_backbones.detection
except ModuleNotFoundError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert "detectron2 is not installed; `make install` installs it" in result.stdout
