"""What `tools/check_compatibility.py` installs and tells; what docs/compatibility.md states."""

import re
import sys
from pathlib import Path

import pytest
from load_tool import TOOLS, load_tool
from packaging.requirements import Requirement
from packaging.version import Version

sys.path.insert(0, str(TOOLS))

from compatibility.ends import Outcome, counts_of, lower_bound, pins, requirements, table

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "compatibility.md").read_text()

PYPROJECT = """
[project]
dependencies = ["torch>=2.6", "wrapt"]
[project.optional-dependencies]
smp = ["segmentation-models-pytorch>=0.5,<1"]
train = ["jsonargparse[signatures]>=4.35", "segmentation-models-pytorch>=0.5,<1", "setuptools<81"]
"""

REPORT = """<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1" time="12.5">
<testcase classname="tests.test_norm" name="test_a"><failure message="no"/></testcase>
<testcase classname="tests.test_norm" name="test_b"><error message="no"/></testcase>
<testcase classname="tests.test_norm" name="test_c"><skipped/></testcase>
<testcase classname="tests.test_norm" name="test_d"/>
<testcase classname="tests.test_norm" name="test_e"/>
</testsuite></testsuites>"""


@pytest.fixture
def needed(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text(PYPROJECT)
    return requirements(path, ["smp", "train"])


def test_the_oldest_are_the_lower_bounds(needed):
    assert pins(needed, "oldest") == [
        "torch==2.6",
        "wrapt",
        "segmentation-models-pytorch==0.5",
        "jsonargparse[signatures]==4.35",
        "setuptools<81",
    ]


def test_the_newest_are_left_to_pip(needed):
    assert [Requirement(line) for line in pins(needed, "newest")] == needed


def test_an_unknown_extra_is_refused(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text(PYPROJECT)
    with pytest.raises(KeyError, match="export"):
        requirements(path, ["export"])


def test_a_report_is_counted(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    counts, failed, seconds = counts_of(path)
    assert counts == {"passed": 2, "failed": 2, "skipped": 1}
    assert failed == ["tests.test_norm.test_a", "tests.test_norm.test_b"]
    assert seconds == 12.5


@pytest.mark.parametrize(
    ("counts", "error", "well", "summary"),
    [
        ({"passed": 3, "failed": 0, "skipped": 0}, "", True, "3 passed in 61 s"),
        ({"passed": 3, "failed": 1, "skipped": 0}, "", False, "3 passed, 1 failed in 61 s"),
        ({"passed": 0, "failed": 0, "skipped": 2}, "", False, "2 skipped in 61 s"),
        ({}, "not installed: no such version", False, "not installed: no such version"),
    ],
)
def test_an_outcome_is_told(counts, error, well, summary):
    outcome = Outcome("oldest", "3.11.7", {"torch": "2.6.0"}, counts, (), 61.4, error)
    assert outcome.is_well is well
    assert outcome.summary == summary
    last = table([outcome]).splitlines()[-1]
    assert last.startswith("| oldest | 3.11.7 | 2.6.0 | none |")
    assert last.endswith(f"| {summary} |")


def test_a_run_ends_with_its_status_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    tool = load_tool("check_compatibility")
    counts = {"newest": {"passed": 1, "failed": 0}, "oldest": {"passed": 1, "failed": 1}}
    tried = []

    def try_end(end, folder, python):
        tried.append((end, python))
        folder.mkdir()
        return Outcome(end, "3.11.7", counts=counts[end], failed=["test_a"] * counts[end]["failed"])

    monkeypatch.setattr(tool, "try_end", try_end)
    work = ["--work", str(tmp_path)]
    assert tool.main(["--ends", "newest", "--python", "a", "b", *work]) == 0
    assert tried == [("newest", "a"), ("newest", "b")]
    assert tool.main([*work, "--output", str(tmp_path / "all" / "found.json")]) == 1
    assert "oldest: 1 passed, 1 failed in 0 s\n  test_a" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def test_the_selected_tests_exist():
    lines = (ROOT / "tests" / "compatibility.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) > 20
    for line in lines:
        path, _, name = line.removeprefix("--deselect=").partition("::")
        *_, name = name.split("::")
        assert re.search(rf"^ *def {name}", (ROOT / path).read_text(), re.MULTILINE), line


def rows():
    """Return the cells of the tables of the page, by their first cell without its code marks."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("|")
    ]
    return {first.strip("`"): rest for first, *rest in cells}


def test_the_page_states_the_ranges_of_the_project():
    ranges = {each.name: each.specifier for each in requirements(ROOT / "pyproject.toml")}
    stated = re.findall(r"^\| `([\w.-]+)` \| `([^`]*)` \|", PAGE, re.MULTILINE)
    assert len(stated) == 8
    assert {name: Requirement(f"x{specifier}").specifier for name, specifier in stated} == {
        name: ranges[name] for name, _ in stated
    }


def test_the_oldest_that_the_page_tells_are_those_bounds():
    ranges = {each.name: each for each in requirements(ROOT / "pyproject.toml")}
    measured = dict(zip(rows()[""], rows()["oldest"], strict=True))
    for name in ("torch", "torchvision", "timm", "segmentation-models-pytorch", "lightning"):
        assert Version(measured[name]) == Version(lower_bound(ranges[name])), name
    assert " passed" in measured["tests"]
