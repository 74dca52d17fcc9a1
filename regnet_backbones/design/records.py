"""Designs and what they cost as rows of a JSON file, and back.

A file is an object with "designs", a list of flat rows: the numbers of the design under their names
here, then flops, params, activations, latency_ms and memory_mib. Users add columns of their own.
Of a search all that was measured is a row, "kept" or not, and "chosen" is the number of the best.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regnet_backbones.design.blocks import NUM_STAGES, AnyNetDesign, Stage
from regnet_backbones.design.law import Design, RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.files import read_json, write_whole

if TYPE_CHECKING:
    from regnet_backbones.design.searching import Candidate

ROWS_KEY = "designs"
CHOSEN_KEY = "chosen"

STAGE_COLUMNS = tuple(f"stage_{each.name}" for each in fields(Stage))
NUMBER_COLUMNS = tuple(each.name for each in fields(RegNetDesign))
REQUIRED = tuple(each.name for each in fields(RegNetDesign) if each.default is MISSING)


def row_of(candidate: "Candidate") -> dict[str, object]:
    """Return a candidate as a flat row; what was not measured is left out.

    Args:
        candidate: of a sample or a search.
    """
    design, cost = candidate.design, candidate.cost
    if isinstance(design, AnyNetDesign):
        columns = zip(*map(astuple, design.stages), strict=True)
        row: dict[str, object] = dict(zip(STAGE_COLUMNS, map(list, columns), strict=True))
        row |= {"se_ratio": design.se_ratio, "stem_width": design.stem_width}
    else:
        row = asdict(design)
    row |= {"flops": cost.flops, "params": cost.params, "activations": cost.activations}
    measured = {"latency_ms": candidate.latency_ms, "memory_mib": candidate.memory_mib}
    return row | {name: value for name, value in measured.items() if value is not None}


def design_of(row: object) -> Design:
    """Return the design of a row.

    Args:
        row: a mapping as `row_of` makes it; other columns are ignored.

    Raises:
        ValueError: numbers are missing or give no network.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"a design is an object of names and numbers, got {row!r}")
    is_anynet = STAGE_COLUMNS[0] in row
    needed = STAGE_COLUMNS if is_anynet else REQUIRED
    missing = [name for name in needed if name not in row]
    if missing:
        raise UserError(f"a design needs {', '.join(needed)}; missing: {', '.join(missing)}")
    if not is_anynet:
        numbers = {name: row[name] for name in NUMBER_COLUMNS if name in row}
        return RegNetDesign(**numbers)  # which checks its numbers
    columns = [row[name] for name in STAGE_COLUMNS]
    if not all(isinstance(each, list) and len(each) == NUM_STAGES for each in columns):
        raise UserError(f"{', '.join(needed)} must be lists of {NUM_STAGES} numbers, got {columns}")
    stages = tuple(Stage(*each) for each in zip(*columns, strict=True))
    others = {name: row[name] for name in ("se_ratio", "stem_width") if name in row}
    return AnyNetDesign(stages, **others)


def write_records(
    path: str | Path, rows: Sequence[Mapping[str, object]], *, about: Mapping[str, object]
) -> None:
    """Write rows, and what is to be known about them, as JSON, whole or not at all.

    Args:
        path: the file.
        rows: as `row_of` makes them.
        about: what is to be known, by name.
    """
    text = json.dumps({**about, ROWS_KEY: list(rows)}, indent=1) + "\n"
    write_whole(Path(path), lambda file: file.write(text.encode()))


def read_records(path: str | Path) -> list[object]:
    """Return the rows of a JSON file: a list, or an object whose "designs" is one.

    Rows are flat objects, or bare numbers in a file of your own.

    Args:
        path: the file.

    Raises:
        ValueError: the file is not such JSON, or holds no row.
        OSError: it cannot be read.
    """
    return read_results(path)[0]


def read_results(path: str | Path) -> tuple[list[Any], Any]:
    """Return the rows of a file, and the number of the one that counts.

    That is the one a search chose, None if it chose none, and the first if this was no search.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        content = {ROWS_KEY: content}
    rows = content.get(ROWS_KEY)
    if not isinstance(rows, list) or not rows:
        raise UserError(
            f'{path} must hold a list of rows, or an object whose "{ROWS_KEY}" is one, not empty'
        )
    return rows, content.get(CHOSEN_KEY, 0)
