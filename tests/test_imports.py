"""The rings of the package: imports point inward, and what a ring may import of others is known."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import regnet_backbones

ROOT = Path(regnet_backbones.__file__).parent

# From the inside out. A room imports rooms of its own ring only where `PEERS` allows it.
RINGS = (
    {"errors", "files", "design", "zoo", "shapes"},
    {"norm", "weights", "backbone", "optimize", "export", "measure"},
    {"adapters"},
    {"runs"},
    {"data"},
    {"detection", "semseg"},
    {"predictor"},
    {"report"},
    {"cli", "__main__"},
)
PEERS = (True, True, False, False, False, False, False, False, True)  # of the adapters: see below

FRAMEWORKS = {
    *("detectron2", "fvcore", "iopath"),
    *("lightning", "jsonargparse", "torchmetrics", "segmentation_models_pytorch"),
    "transformers",
}
TORCH = {"torch", "torchvision", "timm", "safetensors"}
# What a ring may not import, nowhere; the report renders what others computed.
FORBIDDEN = (
    TORCH | FRAMEWORKS,
    FRAMEWORKS,
    set(),
    FRAMEWORKS,
    TORCH | FRAMEWORKS,
    set(),
    TORCH | FRAMEWORKS,
    TORCH | FRAMEWORKS,
    set(),
)
# Modules that a command imports before it knows what it is to do: no torch, no numpy.
LIGHT = (
    "regnet_backbones",
    "regnet_backbones.design",
    "regnet_backbones.zoo",
    "regnet_backbones.errors",
    "regnet_backbones.files",
    "regnet_backbones.cli.main",
)

COMPAT = "regnet_backbones.adapters.detectron2.compat"
FILES = {
    ".".join(("regnet_backbones", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}
MODULES = [name for name in FILES if name != "regnet_backbones"]


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


def room_of(module):
    return module.split(".")[1]


def ring_of(room):
    rings = [number for number, ring in enumerate(RINGS) if room in ring]
    assert len(rings) == 1, f"{room} is not in one ring"
    return rings[0]


def ours(path, everywhere=True):
    """Return the modules of the package that a file imports."""
    return {name for name in imported_names(path, everywhere) if name in FILES} - {
        "regnet_backbones"
    }


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_inward(module):
    room, ring = room_of(module), ring_of(room_of(module))
    for name in ours(FILES[module]):
        other = room_of(name)
        allowed = other == room or ring_of(other) < ring or (ring_of(other) == ring and PEERS[ring])
        assert allowed, f"{module} imports {name}"
    for name in imported_names(FILES[module]):
        top = name.split(".")[0]
        assert top not in FORBIDDEN[ring], f"{module} imports {name}"
        assert top not in {"benchmarks", "tools", "tests"}, f"{module} imports {name}"


def test_every_room_is_in_a_ring():
    assert {room_of(module) for module in MODULES} == set().union(*RINGS)


def test_no_adapter_imports_another():
    adapters = {m: m.split(".")[2] for m in MODULES if m.startswith("regnet_backbones.adapters.")}
    for module, adapter in adapters.items():
        for name in ours(FILES[module]):
            assert adapters.get(name, adapter) == adapter, f"{module} imports {name}"


@pytest.mark.parametrize(
    ("adapter", "own"),
    [
        ("detectron2", {"detectron2", "fvcore", "iopath"}),
        ("smp", {"segmentation_models_pytorch"}),
        ("torchvision", set()),
        ("transformers", {"transformers"}),
    ],
)
def test_an_adapter_imports_only_its_own_framework(adapter, own):
    found = set()
    for module, path in FILES.items():
        if f"{module}.".startswith(f"regnet_backbones.adapters.{adapter}."):
            found |= {name.split(".")[0] for name in imported_names(path)} & FRAMEWORKS
    assert found == own & found
    assert bool(found) == bool(own)


def test_the_repair_kit_is_by_itself():
    for module in FILES:
        imports_it = any(name.startswith(COMPAT) for name in ours(FILES[module]))
        if module.startswith(COMPAT):
            outside = [name for name in ours(FILES[module]) if not name.startswith(COMPAT)]
            assert set(outside) <= {COMPAT.rpartition(".")[0]}, f"{module} imports {outside}"
        elif imports_it:
            assert module == "regnet_backbones" or module.startswith(
                "regnet_backbones.adapters.detectron2"
            ), f"{module} imports {COMPAT}"


def test_there_is_no_circle():
    graph = {module: ours(path, everywhere=False) - {module} for module, path in FILES.items()}
    done = set()
    while ready := {module for module, names in graph.items() if names <= done} - done:
        done |= ready
    assert not graph.keys() - done


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module):
    heavy = FRAMEWORKS | TORCH | {"numpy", "scipy", "PIL", "matplotlib"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_fast_tests_import_no_framework():
    """Nor do the helpers in tests/ that they import."""
    tests = ROOT.parent / "tests"
    makefile = (ROOT.parent / "Makefile").read_text().replace("\\\n", " ")
    names = re.search(r"^FAST_TESTS := .*,([\w\s]+)\)\)$", makefile, re.MULTILINE)[1].split()
    left, seen = ["conftest", *(f"test_{name}" for name in names)], set()
    assert len(left) > 6
    while left:
        name = left.pop()
        seen.add(name)
        imports = set(imported_names(tests / f"{name}.py", everywhere=False))
        assert not {each.split(".")[0] for each in imports} & FRAMEWORKS, name
        rooms = {room_of(each) for each in imports if each.startswith("regnet_backbones.")}
        assert not rooms & {"adapters", "detection", "semseg"}, name
        left += [each for each in imports - seen if (tests / f"{each}.py").is_file()]


def test_public_names_exist():
    for package in (regnet_backbones, regnet_backbones.design):
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018


def test_without_detectron2_the_rest_works():
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
    assert "detectron2" in result.stdout
