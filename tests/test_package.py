"""The built wheel holds the package and its configs, and works away from the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IGNORED = shutil.ignore_patterns(".*", "datasets", "output", "build", "dist", "*.egg-info")


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: a build leaves its traces beside the sources.
    source = shutil.copytree(ROOT, folder / "source", ignore=IGNORED)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_modules_and_configs_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "regnet_backbones").rglob("*.py")}
    files = [p for suffix in ("yaml", "py") for p in (ROOT / "configs").rglob(f"*.{suffix}")]
    configs = {f"regnet_backbones/{p.relative_to(ROOT)}" for p in files}
    assert {p.suffix for p in files} == {".yaml", ".py"}
    assert {name for name in names if ".dist-info/" not in name} == modules | configs


def test_it_works_away_from_the_repository(wheel, tmp_path):
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    code = """
import regnet_backbones, torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_backbone
path = regnet_backbones.config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
cfg = get_cfg()
cfg.merge_from_file(str(path))
cfg.MODEL.DEVICE = "cpu"
maps = build_backbone(cfg)(torch.zeros(1, 3, 64, 64))
lazy = LazyConfig.load(str(path).replace("quick", "lazy/quick").replace(".yaml", ".py"))
parameters = [sum(p.numel() for p in m.parameters()) for m in (
    build_backbone(cfg), instantiate(lazy.model.backbone)
)]
print(regnet_backbones.__file__, path, parameters[0] == parameters[1], *maps)
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    output = run(sys.executable, "-W", "ignore", "-c", code, env=environment, cwd=tmp_path)
    package, path, same, *maps = output.split()
    assert Path(package).is_relative_to(site)
    assert Path(path).is_relative_to(site)
    assert same == "True"
    assert maps == ["p2", "p3", "p4", "p5", "p6"]
