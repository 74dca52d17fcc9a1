"""Tables and numbers of the pages of docs/, against what they are about."""

import json
import math
import re
import tomllib

import documents
import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from documents import DOCUMENTS, ROOT, blocks, codes

from regnet_backbones import zoo
from regnet_backbones.adapters.detectron2.builders import BUILDERS
from regnet_backbones.adapters.detectron2.config import REGNET_DEFAULTS
from regnet_backbones.design import RegNetDesign, complexity
from regnet_backbones.detection.config import default_config
from regnet_backbones.norm import NORMS
from regnet_backbones.weights.dialects import CHANNEL_ORDERS


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def rows(name, heading):
    return documents.rows(page(name), heading)


def test_all_keys_of_regnet_and_their_defaults():
    told = {}
    for keys, default, _ in rows("detectron2", "Keys of MODEL.REGNET"):
        told |= dict.fromkeys(codes(keys), yaml.safe_load(codes(default)[0]))
    assert told == REGNET_DEFAULTS


def test_all_norms():
    (cells,) = [r for r in rows("detectron2", "Keys of MODEL.REGNET") if r[0] == "`NORM`"]
    assert {text.strip('"') for cell in cells[1:] for text in codes(cell)} == set(NORMS)


def test_all_builders():
    assert {codes(row[0])[0] for row in rows("detectron2", "Builders")} == set(BUILDERS)


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs" / "detectron2.md"])
def test_the_config_builds_the_network_it_names(path):
    cfg = default_config()
    for block in blocks(path.read_text(), "yaml"):
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(block)))
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]  # as every stock FPN config says
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    weights = zoo.get("regnety_032").weights["ra_in1k"]
    assert backbone.bottom_up.name == "regnety_032"
    assert cfg.MODEL.WEIGHTS == f"timm://regnety_032.{weights.tag}"
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx([255 * v for v in weights.mean])
    assert cfg.MODEL.PIXEL_STD == pytest.approx([255 * v for v in weights.std])


def test_all_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = [codes(row[0])[0] for row in rows("install", "Extras")]
    assert set(told) == set(project["optional-dependencies"])


def test_the_range_of_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert page("install").startswith("# Install\n\nPython 3.11 or newer.")


def test_the_number_of_networks():
    told = [re.findall(r"X, Y, V, Z: (\d+) of them", p.read_text()) for p in DOCUMENTS]
    assert {int(number) for numbers in told for number in numbers} == {len(zoo.names())}


def test_the_worked_example_block_by_block():
    """The numbers of the page by its formulas, and the same of the package."""
    table = [[float(cell) for cell in row] for row in rows("regnet", "One worked example")]
    assert [row[0] for row in table] == [0, 1, 2, 3, 4, 5, 6]
    for j, u, s, rounded, power, width in table:
        assert u == 48 + 28 * j
        assert s == pytest.approx(math.log(u / 48) / math.log(1.8), abs=5e-4)
        assert abs(rounded - s) < 0.5
        assert power == pytest.approx(48 * 1.8**rounded, abs=5e-3)
        assert width % 8 == 0
        assert abs(width - power) < 4
    design = RegNetDesign(w_0=48, w_a=28.0, w_m=1.8, depth=7, group_width=16)
    assert design.block_widths.continuous == tuple(row[1] for row in table)
    assert design.block_widths.quantized == tuple(row[5] for row in table)


def test_the_worked_example_stage_by_stage():
    tables = re.findall(r"(?:^\|.*\|\n)+", page("regnet"), re.MULTILINE)
    (table,) = [text for text in tables if text.startswith("| stage |")]
    lines = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    stages = [[float(cell) for cell in line] for line in lines]
    for number, (stage, _, width, groups, rounded, final) in enumerate(stages, start=1):
        assert stage == number
        assert groups == width / 16
        assert abs(rounded - groups) < 0.5 or (abs(rounded - groups) == 0.5 and rounded % 2 == 0)
        assert final == 16 * rounded
    design = RegNetDesign(w_0=48, w_a=28.0, w_m=1.8, depth=7, group_width=16)
    assert [(s.depth, s.width) for s in design.stages] == [(line[1], line[5]) for line in stages]


def test_what_regnety_032_costs():
    design = zoo.get("regnety_032").design
    small, large = (complexity(design, size) for size in (224, (800, 1333)))
    alone = complexity(design, (800, 1333), num_classes=None)
    assert (f"{small.flops / 1e9:.1f}", f"{alone.flops / 1e9:.1f}") == ("3.2", "67.9")
    assert large.params == small.params
    (told,) = re.findall(r"RegNetY-3\.2GF has (\S+) billion [^.]*? (\S+) at\s800", page("regnet"))
    assert told == ("3.2", "67.9")


def test_the_widths_among_the_mistakes():
    """By the paper's law, which the reference numbers hold ours to."""

    def widths(name):
        return "-".join(str(stage.width) for stage in zoo.get(name).design.stages)

    assert f"RegNetY-3.2GF is {widths('RegNetY-3.2GF')}" in page("regnet")
    assert f"*RegNetY-3.2GF is {widths('RegNetY-400MF')} wide.*" in page("regnet")
    tv = [name for name in zoo.names() if name.endswith("_tv")]
    assert {"regnetx_004_tv", "regnety_008_tv", "regnety_080_tv"} == set(tv)


def test_what_images_the_weights_expect():
    imagenet, half, flipped, bgr = rows("weights", "Channel order, mean and deviation")

    def numbers(cell):
        return [float(number) for number in cell.split(", ")]

    free = {zoo.get(name) for name in zoo.names() if zoo.get(name).design is None}
    for name in zoo.names():
        variant = zoo.get(name)
        row = half if variant in free else imagenet
        for weights in variant.weights.values():
            assert numbers(row[2]) == pytest.approx([255 * v for v in weights.mean])
            assert numbers(row[3]) == pytest.approx([255 * v for v in weights.std])
    assert [row[1] for row in (imagenet, half, flipped, bgr)] == ["RGB", "RGB", "RGB", "BGR"]
    assert flipped[2:] == imagenet[2:]
    for rgb, reversed_ in zip(imagenet[2:], bgr[2:], strict=True):
        assert numbers(rgb)[::-1] == numbers(reversed_)
    told = {
        name: order
        for dialects, _, order in rows("weights", "Dialects")
        for name in dialects.replace("`", "").split(", ")
    }
    assert told == CHANNEL_ORDERS


def test_the_licences():
    def licence(name):
        variant = zoo.get(name)
        return variant.weights[variant.default_tag].licence

    assert licence("regnety_1280") == "cc-by-nc-4.0"
    assert licence("regnety_640") == licence("regnety_2560") == "seer-license"


def test_the_json_of_the_page_is_json():
    (block,) = blocks(page("datasets"), "json")
    assert set(json.loads(block)) == {"images", "annotations", "categories"}
