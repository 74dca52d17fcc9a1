"""The table of all named networks: what the paper published, and what the document shows."""

import json
from pathlib import Path

import pytest
from load_tool import load_tool

from regnet_backbones import zoo

ROOT = Path(__file__).parent.parent
REFERENCE = json.loads((ROOT / "tests" / "data" / "regnet_reference.json").read_text())["models"]

list_variants = load_tool("design").main


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("| ") and " --- " not in line]
    table = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[1:])
    return {row[0]: row for row in table}


def test_the_document_is_what_the_tool_prints(capsys):
    assert list_variants(["list", "--markdown"]) == 0
    assert (ROOT / "docs" / "variants.md").read_text().endswith(f"\n\n{capsys.readouterr().out}")


def test_all_variants_are_listed_with_the_costs_of_the_authors_own_code(capsys):
    assert list_variants(["list", "--markdown"]) == 0
    rows = cells(capsys.readouterr().out)
    assert tuple(rows) == zoo.names()
    by_paper_name = {row[1]: row for row in rows.values() if row[1]}
    found = 0
    for model in REFERENCE:
        row = by_paper_name.get(zoo.get(model["name"]).paper_name)
        params, flops, activations = row[2], row[3], row[5]
        assert float(params) == pytest.approx(model["params"] / 1e6, abs=0.051)
        assert float(flops) == pytest.approx(model["flops"] / 1e9, abs=0.0051)
        assert float(activations) == pytest.approx(model["activations"] / 1e6, abs=0.051)
        found += 1
    assert found == 24
    # Widths without a law have no costs here; RegNetZ-500MF has no weights.
    assert rows["regnetz_b16"] == [
        *("regnetz_b16", "", "", "", "", ""),
        *("79.9", "ra3_in1k", "apache-2.0"),
    ]
    assert rows["regnetz_005"][6:] == ["", "", ""]
    assert rows["regnety_320"][6:] == ["83.4", "tv2_in1k", "bsd-3-clause"]


def test_a_part_at_a_size_of_ones_own(capsys):
    assert list_variants(["list", "regnetx_00", "--image-size", "448", "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "backbone at 448x448 (G)" in text
    rows = cells(text)
    assert list(rows) == [n for n in zoo.names() if n.startswith("regnetx_00")]
    # Four times those at 224, without the classifier of 368 * 1000 weights.
    flops = 4 * (199_040_872 - 369_000) / 1e9
    assert float(rows["regnetx_002"][4]) == pytest.approx(flops, abs=0.051)


def test_the_readmes_rows_are_those_of_the_document():
    documented = cells((ROOT / "docs" / "variants.md").read_text())
    shown = {
        n: row for n, row in cells((ROOT / "README.md").read_text()).items() if n in documented
    }
    assert len(shown) >= 5
    for name, row in shown.items():
        in_the_paper = 1
        expected = documented[name]
        assert row == expected[:in_the_paper] + expected[in_the_paper + 1 :], name
