"""The lock is exact and plain, and is what is installed here; ranges and extras hold together."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


LOCKED = {canonical(name): version for name, version in (line.split("==") for line in LOCK)}


def test_every_line_is_a_name_and_a_version():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in LOCK)
    assert sorted(LOCK, key=str.lower) == LOCK


def closure(extras):
    """Return what the project with these extras needs, and what that needs in turn."""
    needed, todo = set(), [("regnet-backbones", tuple(extras))]
    while todo:
        name, extras = todo.pop()
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *extras)]
            marker = requirement.marker
            if marker and not any(marker.evaluate(environment) for environment in environments):
                continue
            if canonical(requirement.name) == "regnet-backbones":  # `all` names other extras
                continue
            item = (canonical(requirement.name), tuple(sorted(requirement.extras)))
            if item not in needed:
                needed.add(item)
                todo.append(item)
    return {name for name, _ in needed}


def test_everything_that_is_needed_is_locked_and_installed_so():
    needed = closure(PROJECT["optional-dependencies"])
    assert {"torch", "timm", "pycocotools", "lightning"} <= needed
    assert {name: distribution(name).version for name in needed} == {
        name: LOCKED.get(name) for name in needed
    }


@pytest.mark.parametrize("extra", ["core", *PROJECT["optional-dependencies"]])
def test_locked_versions_are_in_the_ranges_of_the_project(extra):
    core = PROJECT["dependencies"]
    for line in core if extra == "core" else PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == "regnet-backbones":
            assert requirement.extras <= PROJECT["optional-dependencies"].keys()
            continue
        assert requirement.specifier.contains(LOCKED[canonical(requirement.name)]), line


def test_the_extras_are_those_promised():
    promised = {"detectron2", "smp", "train", "benchmark", "design", "export", "report"}
    promised |= {"docs", "dev", "openvino", "transformers", "data", "coco", "video", "all"}
    promised |= {"completion"}
    assert set(PROJECT["optional-dependencies"]) == promised


def test_no_address_of_an_index_is_written_down():
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text()
    assert "index-url" not in (ROOT / "Makefile").read_text()
