"""Designs and what they cost as rows of a JSON file, and back.

A file is an object with "designs", a list of flat rows: the numbers of the design under their names
here, then flops, params, activations, latency_ms and memory_mib. Users add columns of their own,
such as "error", and compare them by `edf`. Of a search all that was measured is a row, "kept" or
not, and "chosen" beside the rows is the number of the one that was found best.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from regnet_backbones.design.anynet import AnyNetDesign, Design
from regnet_backbones.design.law import NUM_STAGES, RegNetDesign, Stage
from regnet_backbones.design.sampling import Candidate
from regnet_backbones.errors import UserError
from regnet_backbones.files import read_json, write_whole

ROWS_KEY = "designs"
CHOSEN_KEY = "chosen"

STAGE_COLUMNS = tuple(each.name for each in fields(Stage))


def row_of(candidate: Candidate) -> dict[str, object]:
    """Return a candidate as a flat row; what was not measured is left out.

    Args:
        candidate: of a sample or a search.
    """
    cost = candidate.cost
    row = numbers_of(candidate.design)
    row |= {"flops": cost.flops, "params": cost.params, "activations": cost.activations}
    for name in ("latency_ms", "memory_mib"):
        if getattr(candidate, name) is not None:
            row[name] = getattr(candidate, name)
    return row


def numbers_of(design: Design) -> dict[str, object]:
    """Return the numbers of a design by name; those of stages as lists, "stage_width" and so on."""
    if isinstance(design, AnyNetDesign):
        stages = [asdict(stage) for stage in design.stages]
        columns = {f"stage_{name}": [stage[name] for stage in stages] for name in STAGE_COLUMNS}
        return columns | {"se_ratio": design.se_ratio, "stem_width": design.stem_width}
    return asdict(design)


def design_of(row: Mapping[str, object]) -> Design:
    """Return the design of a row.

    Args:
        row: as `row_of` makes it; other columns are left alone.

    Raises:
        ValueError: numbers are missing or give no network.
    """
    columns = [f"stage_{name}" for name in STAGE_COLUMNS]
    if columns[0] in row:
        stages = zip(*_stage_lists(row, columns), strict=True)
        others = {name: row[name] for name in ("se_ratio", "stem_width") if name in row}
        return AnyNetDesign(
            tuple(Stage(*numbers) for numbers in stages),
            **others,  # type: ignore[arg-type]  # a design checks its numbers
        )
    _check_columns(row, [each.name for each in fields(RegNetDesign) if each.default is MISSING])
    known = {each.name for each in fields(RegNetDesign)}
    numbers = {name: value for name, value in row.items() if name in known}
    return RegNetDesign(**numbers)  # type: ignore[arg-type]  # a design checks its numbers


def write_records(
    path: str | Path, rows: Sequence[Mapping[str, object]], *, about: Mapping[str, object]
) -> None:
    """Write what is to be known about rows, and the rows, as JSON, whole or not at all.

    Args:
        path: the file.
        rows: as `row_of` makes them.
        about: what is to be known, by name.
    """
    text = json.dumps({**about, ROWS_KEY: list(rows)}, indent=1) + "\n"
    write_whole(Path(path), lambda file: file.write(text.encode()))


def read_records(path: str | Path) -> list[object]:
    """Return the rows of a JSON file: a list, or an object whose "designs" is one.

    Rows are flat objects, or bare numbers in a file of one's own.

    Args:
        path: the file.

    Raises:
        ValueError: the file is not such JSON, or holds no row.
        OSError: it cannot be read.
    """
    return _rows(path, read_json(path))


def read_results(path: str | Path) -> tuple[list[object], int | None]:
    """Return the rows of a file, and the number of the one that a search chose.

    That is None where the file does not say it.

    Args:
        path: the file.

    Raises:
        ValueError: the file is no such JSON, or has no such row.
        OSError: it cannot be read.
    """
    content = read_json(path)
    rows = _rows(path, content)
    chosen = content.get(CHOSEN_KEY) if isinstance(content, dict) else None
    if chosen is not None and (type(chosen) is not int or not 0 <= chosen < len(rows)):
        raise UserError(
            f'"{CHOSEN_KEY}" of {path} must be a row, 0 to {len(rows) - 1}, or null, got {chosen!r}'
        )
    return rows, chosen


def _rows(path: str | Path, content: object) -> list[object]:
    """Return the rows of what a JSON file holds."""
    rows = content.get(ROWS_KEY) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows:
        what = (
            f"an object with {', '.join(content)}" if isinstance(content, dict) else repr(content)
        )
        raise UserError(
            f'{path} must hold a list of rows, or an object whose "{ROWS_KEY}" is one, not empty; '
            f"it holds {what[:80]}"
        )
    return rows


def _stage_lists(row: Mapping[str, object], columns: Sequence[str]) -> Iterator[list[object]]:
    """Return the columns of an AnyNet, of which each has a number for each stage."""
    _check_columns(row, columns)
    for column in columns:
        numbers = row[column]
        if not isinstance(numbers, list) or len(numbers) != NUM_STAGES:
            raise UserError(f"{column} must be a list of {NUM_STAGES} numbers, got {numbers!r}")
        yield numbers


def _check_columns(row: Mapping[str, object], columns: Sequence[str]) -> None:
    """Raise unless a row has the columns."""
    missing = [column for column in columns if column not in row]
    if missing:
        raise UserError(f"a design needs {', '.join(columns)}; missing: {', '.join(missing)}")
