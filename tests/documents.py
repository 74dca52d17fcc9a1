"""The documents of the project, and what is in them: commands, code, links, headings."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]

_FENCED = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path):
    """Return how tests call a document."""
    return str(path.relative_to(ROOT))


def prose(text):
    """Return a document without its fenced blocks."""
    return _FENCED.sub("", text)


def blocks(text, language):
    """Return the fenced blocks of a language."""
    return [block for found, block in _FENCED.findall(text) if found == language]


def commands(text, start=""):
    """Return the indented lines, which are commands, that begin so; continuation lines joined."""
    joined = re.sub(r" *\\\n *", " ", prose(text))
    return re.findall(rf"^    (?=\S)({re.escape(start)}.*)$", joined, re.MULTILINE)


def links(text):
    """Return the targets of links and pictures, outside of code."""
    text = re.sub(r"`[^`]*`", "", prose(text))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(text):
    """Return the names that GitHub, and MyST, give the headings of a document."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {
        slug if slugs[:number].count(slug) == 0 else f"{slug}-{slugs[:number].count(slug)}"
        for number, slug in enumerate(slugs)
    }


def rows(text, heading):
    """Return the cells of the first table below a heading, without the head of the table."""
    _, below = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)
    table = re.search(r"(?:^\|.*\|\n)+", below, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table]


def codes(text):
    """Return what is in backticks."""
    return re.findall(r"`([^`]+)`", text)
