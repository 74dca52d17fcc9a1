"""Wheel and sdist, outside of the repository: the command works without a checkout and sources."""

import compileall
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation")


def pip(*arguments, cwd):
    ended = subprocess.run(
        [*PIP, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a folder with the wheel, the sdist, and both installed; built from a clean copy."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "copy" / name).write_bytes((ROOT / name).read_bytes())
    code = "from setuptools.build_meta import *; build_sdist(r'..'); build_wheel(r'..')"
    subprocess.run([sys.executable, "-c", code], cwd=folder / "copy", check=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    pip("install", *OFFLINE, "--target", folder / "site", wheel, cwd=folder)
    return folder, wheel, sdist


@pytest.fixture(scope="module")
def command(built):
    """Return a function that calls the installed command, in a folder that has nothing.

    The package is reached by a symbolic link, and has no sources.
    """
    folder = built[0]
    package = folder / "site" / "regnet_backbones"
    compileall.compile_dir(package, quiet=1, legacy=True)
    for source in package.rglob("*.py"):
        if "configs" not in source.parts:
            source.unlink()
    (folder / "link").symlink_to(folder / "site")
    (script,) = (folder / "site" / "bin").glob("regnet-backbones")
    (folder / "empty").mkdir()

    def call(*words):
        return subprocess.run(
            [sys.executable, script, *words],
            cwd=folder / "empty",
            env={**os.environ, "PYTHONPATH": str(folder / "link")},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_the_archives_hold_the_package_and_its_configs_and_no_tests(built):
    _, wheel, sdist = built
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"regnet_backbones"}
    configs = {f"regnet_backbones/{p.relative_to(ROOT)}" for p in ROOT.glob("configs/**/*.yaml")}
    assert configs
    assert configs <= set(names)
    with tarfile.open(sdist) as archive:
        kept = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "regnet_backbones").rglob("*.py")}
    assert sources <= kept
    assert not any(name.startswith("tests/") for name in kept)


def test_the_command_works_outside_of_the_repository(command, tmp_path):
    ended = command("--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = command("train-detector", "--config-file", "nothing_like_it")
    assert str(tmp_path.parent) in ended.stderr  # the installed configs, not those of a checkout
    shapes = tmp_path / "shapes"
    size = ("--num-train", "2", "--num-val", "1", "--image-size", "64")
    ended = command("shapes", "--output", str(shapes), *size)
    assert ended.returncode == 0, ended.stderr
    assert list((shapes / "images" / "train").iterdir())
    ended = command("design", "show", "regnety_032")
    assert ended.returncode == 0, ended.stderr
    assert "1512" in ended.stdout


def test_configs_are_found_by_name_and_errors_are_lines_without_sources(command, tmp_path):
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
