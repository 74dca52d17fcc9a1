"""What is built of the project: an sdist and a wheel that works away from the repository."""

import compileall
import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import regnet_backbones
from regnet_backbones.adapters.detectron2 import installing
from regnet_backbones.errors import UserError

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IGNORED = shutil.ignore_patterns(
    ".*", "_build", "__pycache__", "datasets", "output", "build", "dist", "*.egg-info"
)


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy: a build leaves its traces beside the sources."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "project", ignore=IGNORED)


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    """Return sdist, wheel built from it, and wheel built from the tree."""
    build = (sys.executable, "-m", "build", "--no-isolation")
    both, alone = tmp_path_factory.mktemp("both"), tmp_path_factory.mktemp("alone")
    run(*build, "--outdir", both, source)
    run(*build, "--wheel", "--outdir", alone, source)
    (sdist,), (from_sdist,), (from_tree,) = both.glob("*.gz"), both.glob("*.whl"), alone.iterdir()
    return sdist, from_sdist, from_tree


@pytest.fixture(scope="module")
def wheel(built):
    return built[1]


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """Return the folder that the wheel is installed in."""
    site = tmp_path_factory.mktemp("site") / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", site, wheel)
    return site


@pytest.fixture(scope="module")
def command(site, tmp_path_factory):
    """Return a function that calls the installed command, in a folder that has nothing.

    The package is reached by a symbolic link, and has no sources.
    """
    folder = tmp_path_factory.mktemp("command")
    shutil.copytree(site, folder / "site")
    package = folder / "site" / "regnet_backbones"
    compileall.compile_dir(package, quiet=1, legacy=True)
    for source in package.rglob("*.py"):
        if "configs" not in source.parts:
            source.unlink()
    (folder / "link").symlink_to(folder / "site")
    (folder / "empty").mkdir()

    def call(*words):
        return subprocess.run(
            [sys.executable, folder / "site" / "bin" / "regnet-backbones", *words],
            cwd=folder / "empty",
            env={**os.environ, "PYTHONPATH": str(folder / "link")},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def contents(wheel):
    """Return the bytes of each file; the record of them lists the files in another order."""
    archive = zipfile.ZipFile(wheel)
    return {name: archive.read(name) for name in archive.namelist() if "/RECORD" not in name}


def test_the_wheel_of_the_sdist_is_that_of_the_tree(built):
    _, from_sdist, from_tree = built
    assert from_sdist.name == from_tree.name
    assert contents(from_sdist) == contents(from_tree)


def test_the_wheel_holds_modules_data_and_configs_and_nothing_else(wheel):
    package = ROOT / "regnet_backbones"
    suffixes = {".py", ".typed", ".j2", ".json"}
    files = [p for p in package.rglob("*") if p.suffix in suffixes]
    assert {p.suffix for p in files} == suffixes
    configs = [p for p in (ROOT / "configs").rglob("*") if p.suffix in (".yaml", ".py")]
    assert {p.suffix for p in configs} == {".yaml", ".py"}
    wanted = {str(p.relative_to(ROOT)) for p in files}
    wanted |= {f"regnet_backbones/{p.relative_to(ROOT)}" for p in configs}
    assert {name for name in contents(wheel) if ".dist-info/" not in name} == wanted
    assert [name for name in contents(wheel) if name.endswith("/licenses/LICENSE")]


def test_the_sdist_holds_no_tests_and_nothing_of_this_machine(built):
    with tarfile.open(built[0]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= set(names)
    assert "regnet_backbones/py.typed" in names
    assert {name.split("/")[0] for name in names if "/" in name} == {
        "configs",
        "regnet_backbones",
        "regnet_backbones.egg-info",
    }
    assert not [name for name in names if "__pycache__" in name]


def test_the_metadata_are_the_projects(wheel):
    (text,) = (text for name, text in contents(wheel).items() if name.endswith("/METADATA"))
    metadata = email.message_from_bytes(text)
    assert metadata["Name"] == PROJECT["name"] == "regnet-backbones"
    assert metadata["Version"] == regnet_backbones.__version__
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == "MIT"
    extras = set(metadata.get_all("Provides-Extra"))
    assert extras == set(PROJECT["optional-dependencies"])
    unconditional = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert len(unconditional) == len(PROJECT["dependencies"])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()


def test_it_works_away_from_the_repository(site, tmp_path):
    code = """
import regnet_backbones, torch
import segmentation_models_pytorch as smp
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_backbone
path = regnet_backbones.config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
cfg = get_cfg()
regnet_backbones.add_regnet_config(cfg)
cfg.merge_from_file(str(path))
cfg.MODEL.DEVICE = "cpu"
maps = build_backbone(cfg)(torch.zeros(1, 3, 64, 64))
lazy = LazyConfig.load(str(path).replace("quick", "lazy/quick").replace(".yaml", ".py"))
parameters = [sum(p.numel() for p in m.parameters()) for m in (
    build_backbone(cfg), instantiate(lazy.model.backbone)
)]
print(regnet_backbones.__file__, path, parameters[0] == parameters[1], *maps)
features = regnet_backbones.RegNetFeatures("regnetx_002")(torch.zeros(1, 3, 64, 64))
mask = smp.Unet("regnetx_002", encoder_weights=None)(torch.zeros(1, 3, 64, 64))
print(*(len(c[0]) for c in features), *mask.shape)
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    output = run(sys.executable, "-W", "ignore", "-c", code, env=environment, cwd=tmp_path)
    first, second = output.splitlines()
    package, path, same, *maps = first.split()
    assert Path(package).is_relative_to(site)
    assert Path(path).is_relative_to(site)
    assert same == "True"
    assert maps == ["p2", "p3", "p4", "p5", "p6"]
    assert second.split() == ["24", "56", "152", "368", "1", "1", "64", "64"]


def test_the_command_works_outside_of_the_repository(command, tmp_path):
    ended = command("--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = command("train-detector", "--config-file", "nothing_like_it")
    assert "/site/regnet_backbones/configs" in ended.stderr  # not those of a checkout
    shapes = tmp_path / "shapes"
    size = ("--num-train", "2", "--num-val", "1", "--image-size", "64")
    ended = command("shapes", "--output", str(shapes), *size)
    assert ended.returncode == 0, ended.stderr
    assert list((shapes / "images" / "train").iterdir())
    ended = command("design", "show", "regnety_032")
    assert ended.returncode == 0, ended.stderr
    assert "1512" in ended.stdout


def test_configs_are_found_by_name_and_errors_are_lines_without_sources(command):
    name = "mask_rcnn_regnet_small_fpn"
    missing = ("--train-json", "a", "--train-images", "b", "--val-json", "c", "--val-images", "d")
    ended = command("train-detector", "--config-file", name, *missing)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "error: " in ended.stderr
    assert "'a'" in ended.stderr.splitlines()[-1]
    ended = command("train-detector", "--config-file", f"{name}x")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"'{name}'" in ended.stderr


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Return the scripts of an environment with the newest pip and setuptools.

    Large packages are links to those of this environment, Detectron2 and ours are not there.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    (site,) = folder.rglob("site-packages")
    left_out = ("detectron2", "pb1_detectron2", "regnet_backbones", "__editable__", "tools")
    left_out += (
        "pip",
        "setuptools",
        "wheel",
        "_distutils",
        "distutils",
        "lvis",
        "cityscapesscripts",
        "sahi",
    )
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(left_out) and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--upgrade")
    run(*pip, "pip", "setuptools")
    return folder / "bin"


def test_three_commands_from_an_empty_environment_to_a_trained_model(environment, wheel, tmp_path):
    hidden = {"PYTHONPATH", "PYTHONHOME"}
    variables = {name: value for name, value in os.environ.items() if name not in hidden}

    def call(*words):
        return run(environment / words[0], *map(str, words[1:]), cwd=tmp_path, env=variables)

    call("pip", "install", "--quiet", f"{wheel}[all]")
    assert "pb1_detectron2-0.6" in call("regnet-backbones", "install-detectron2")
    assert "left alone" in call("regnet-backbones", "install-detectron2")
    assert call("pip", "check").startswith("No broken requirements")
    size = ("--num-train", 4, "--num-val", 2, "--image-size", 64)
    call("regnet-backbones", "shapes", "--output", "shapes", *size)
    sources = [
        word
        for part in ("train", "val")
        for word in (
            f"--{part}",
            f"coco:shapes/annotations/instances_{part}.json,shapes/images/{part}",
        )
    ]
    config = ("--config-file", "mask_rcnn_regnet_small_fpn", *sources)
    length = ("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "OUTPUT_DIR", "run")
    call("regnet-backbones", "train-detector", *config, *length)
    code = """
from detectron2.engine import DefaultTrainer  # ours comes with it
from regnet_backbones.cli.main import main
assert not main(["predict", "run", "shapes/images/val", "--output", "predicted"])
import regnet_backbones
print(regnet_backbones.load("run").predict("shapes/images/val/000000.png").image.shape)
"""
    assert call("python", "-c", code).splitlines()[-1] == "(64, 64, 3)"
    assert (tmp_path / "predicted" / "predictions.json").is_file()


def test_the_hash_of_detectron2_is_enforced(monkeypatch, tmp_path):
    monkeypatch.setattr(installing, "SHA256", "0" * 64)
    monkeypatch.setattr(installing, "_environment", lambda _: sys.executable)
    monkeypatch.setattr(installing, "BUILD_TOOLS", ("pip",))  # which is there
    with pytest.raises(UserError, match="(?i)hash"):
        installing.install(tmp_path / "wheels")
    assert not list(tmp_path.rglob("*.whl"))
