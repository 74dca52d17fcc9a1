"""What docs/troubleshooting.md promises: each line that a tool ends with is a symptom of it."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
# The first cell of a row, in backticks; a vertical bar in it is written \|.
ROW = re.compile(r"^\| `(?P<symptom>[^`]+)` \|", re.MULTILINE)
# What a symptom must say beside what varies, or it would match anything.
FIXED = 12


def symptoms():
    """Return the symptoms of all sections."""
    return [found.replace(r"\|", "|") for found in ROW.findall(DOCUMENT.read_text())]


def pattern_of(symptom):
    """Return what a symptom matches: `...` stands for any text."""
    assert len(symptom.replace("...", "").strip()) >= FIXED, f"'{symptom}' says too little"
    return re.compile(".*".join(map(re.escape, symptom.split("..."))), re.DOTALL)


def assert_documented(printed):
    """Check that what a tool printed on stderr ends in one line that the document has.

    Args:
        printed: all of stderr; what comes before the line are warnings.

    Returns:
        The line, without `error: `.
    """
    assert "Traceback" not in printed, printed
    *_, last = printed.rstrip().splitlines() or [""]
    before, mark, line = f"\n{printed}".rpartition("\nerror: ")
    assert mark or last.startswith(("interrupted", "stopped")), before
    line = line.strip() if mark else last
    known = [symptom for symptom in symptoms() if pattern_of(symptom).fullmatch(line)]
    assert known, f"docs/troubleshooting.md has no row for: {line}"
    return line
