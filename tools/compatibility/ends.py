"""The two ends of the ranges that pyproject.toml states: what to install, and what came of it."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from packaging.requirements import Requirement

End = Literal["oldest", "newest"]

# Whose ranges are tried. ONNX needs a newer torch than everything else does.
EXTRAS = ("detectron2", "smp", "train")

# The columns of the table.
SHOWN = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "lightning",
    "torchmetrics",
    "numpy",
)


@dataclass(frozen=True)
class Outcome:
    """What came of one end.

    Attributes:
        end: of the ranges, "oldest" or "newest".
        python: version of Python.
        versions: of every package that was installed, by its name.
        counts: of the tests, "passed", "failed", "skipped"; empty where there were none.
        failed: names of the tests that failed.
        seconds: that the tests took.
        error: why there were no tests, "" where there were.
    """

    end: End
    python: str
    versions: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    failed: Sequence[str] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def is_well(self) -> bool:
        """Whether tests ran and none failed."""
        return self.counts.get("passed", 0) > 0 and not self.counts["failed"]

    @property
    def summary(self) -> str:
        """The outcome in words."""
        counted = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        return self.error or f"{counted} in {self.seconds:.0f} s"

    def as_json(self) -> dict[str, object]:
        """Return everything, to be written."""
        return asdict(self)


def requirements(pyproject: Path, extras: Sequence[str] = EXTRAS) -> list[Requirement]:
    """Return what the project and its extras need, each line once.

    Raises:
        KeyError: there is no such extra.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in dict.fromkeys(lines)]


def lower_bound(requirement: Requirement) -> str | None:
    """Return the version that a range begins with, None where it is open."""
    bounds = [each.version for each in requirement.specifier if each.operator == ">="]
    return bounds[0] if bounds else None


def pins(needed: Sequence[Requirement], end: End) -> list[str]:
    """Return what pip is given: exactly the lower bounds for "oldest", the ranges for "newest"."""
    if end == "newest":
        return [str(requirement) for requirement in needed]
    lines = []
    for requirement in needed:
        bound = lower_bound(requirement)
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        lines.append(f"{requirement.name}{extras}=={bound}" if bound else str(requirement))
    return lines


def counts_of(report: Path) -> tuple[dict[str, int], list[str], float]:
    """Return numbers of tests, the names of those that failed and seconds, of a JUnit file."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, bad, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites for key in keys)
        for keys in (["tests"], ["failures", "errors"], ["skipped"])
    )
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in ElementTree.parse(report).getroot().iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    seconds = sum(float(suite.get("time", 0)) for suite in suites)
    counts = {"passed": total - bad - skipped, "failed": bad, "skipped": skipped}
    return counts, failed, seconds


def table(outcomes: Sequence[Outcome]) -> str:
    """Return Markdown: a row for each end."""
    head = ["", "Python", *SHOWN, "tests"]
    rows = [
        [outcome.end, outcome.python]
        + [outcome.versions.get(name, "none") for name in SHOWN]
        + [outcome.summary]
        for outcome in outcomes
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
