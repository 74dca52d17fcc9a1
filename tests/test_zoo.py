import copy
import csv
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torchvision
from load_tool import load_tool
from timm.models import get_pretrained_cfg

from regnet_backbones import zoo

REFERENCE = Path(__file__).parent / "data" / "regnet_reference.json"

# Networks of timm that are RegNet by name only.
OTHER_NETWORKS = {"haloregnetz_b", *(f"nf_regnet_b{i}" for i in range(6))}

# Tags of torchvision's trainings, in timm and in torchvision.
TORCHVISION_TAGS = {
    "tv2_in1k": "IMAGENET1K_V2",
    "swag_ft_in1k": "IMAGENET1K_SWAG_E2E_V1",
    "swag_lc_in1k": "IMAGENET1K_SWAG_LINEAR_V1",
}
TORCHVISION_NAMES = [
    name for name in torchvision.models.list_models() if name.startswith("regnet_")
]
BY_TORCHVISION_NAME = {
    zoo.get(name).torchvision_name: zoo.get(name)
    for name in zoo.names()
    if zoo.get(name).torchvision_name
}


def test_imports_neither_torch_nor_numpy():
    code = (
        "import regnet_backbones.design, regnet_backbones.zoo, sys;"
        "print([name for name in ('torch', 'numpy', 'timm') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_every_timm_regnet_is_listed():
    assert set(zoo.names()) | OTHER_NETWORKS == set(timm.list_models("*regnet*"))
    assert not set(zoo.names()) & OTHER_NETWORKS


def test_names_come_by_family_and_size():
    names = list(zoo.names())
    families = ["regnetx", "regnety", "regnetv", "regnetz"]
    assert names == sorted(names, key=lambda name: families.index(name[:7]))
    for family in ("regnetx", "regnety", "regnetv"):
        sizes = [int(name.split("_")[1]) for name in names if name.startswith(family)]
        assert sizes == sorted(sizes)
    assert names[:4] == ["regnetx_002", "regnetx_004", "regnetx_004_tv", "regnetx_006"]


def test_the_table_is_what_the_installed_timm_says():
    make_zoo = load_tool("make_zoo")
    assert make_zoo.table() == make_zoo.ZOO.read_text(), "run python tools/make_zoo.py"


def test_rows_are_read_from_the_table():
    untrained = {name for name in zoo.names() if not zoo.get(name).weights}
    assert untrained == {"regnety_040_sgn", "regnetz_005", "regnetz_b16_evos"}
    for name in zoo.names():
        variant, cfg = zoo.get(name), get_pretrained_cfg(name)
        assert variant.default_tag == (cfg.tag if cfg.has_weights else None)
        assert all(tag == weights.tag for tag, weights in variant.weights.items())
        assert variant.design is None or variant.channels[1:] == tuple(
            stage.width for stage in variant.design.stages
        )
    weights = zoo.get("regnetz_040").weights["ra3_in1k"]
    assert weights.hub_id == "timm/regnetz_040.ra3_in1k"
    assert (weights.licence, weights.input_size) == ("apache-2.0", (3, 256, 256))
    assert (weights.mean, weights.std) == (zoo.IMAGENET_MEAN, zoo.IMAGENET_STD)
    assert (weights.num_classes, weights.top1) == (1000, 83.644)


def test_urls_of_pycls_which_timm_does_not_record():
    found = 0
    for variant in map(zoo.get, zoo.names()):
        if "pycls_in1k" in variant.weights:
            # Those that detectron2's own configs name.
            known = {"RegNetX-4.0GF": "160906383", "RegNetY-4.0GF": "160906838"}
            job = known.get(variant.paper_name, r"1\d{8}")
            file = f"{job}/{re.escape(variant.paper_name)}_dds_8gpu.pyth"
            url = f"https://dl.fbaipublicfiles.com/pycls/dds_baselines/{file}"
            assert re.fullmatch(url, variant.weights["pycls_in1k"].url)
            found += 1
    assert found == 24


def test_every_torchvision_regnet_is_named_by_one_row():
    named = [zoo.get(name).torchvision_name for name in zoo.names()]
    assert sorted(filter(None, named)) == TORCHVISION_NAMES
    assert len(TORCHVISION_NAMES) == 15


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_torchvision_widths(name, monkeypatch):
    # torchvision's generator does not run on the meta device: stop before the layers are made.
    monkeypatch.setattr(torchvision.models.regnet, "RegNet", lambda params, **options: params)
    params = torchvision.models.get_model_builder(name)()
    design = BY_TORCHVISION_NAME[name].design
    assert [s.width for s in design.stages] == params.widths
    assert [s.depth for s in design.stages] == params.depths
    assert [s.group_width for s in design.stages] == params.group_widths
    assert (design.se_ratio or None) == params.se_ratio
    # The paper's rounding and torchvision's agree on most; timm calls the others `_tv`.
    assert ("_tv" in BY_TORCHVISION_NAME[name].name) == (design.rounding == "torchvision")


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_torchvision_top1_and_urls(name):
    published = torchvision.models.get_model_weights(name)
    weights = BY_TORCHVISION_NAME[name].weights
    found = {tag: (w.url, w.top1) for tag, w in weights.items() if tag in TORCHVISION_TAGS}
    assert found
    for tag, facts in found.items():
        entry = published[TORCHVISION_TAGS[tag]]
        assert facts == (entry.url, entry.meta["_metrics"]["ImageNet-1K"]["acc@1"])


def test_paper_names_and_top1():
    reference = json.loads(REFERENCE.read_text())["models"]
    published = {row["name"]: (row["paper_name"], row["imagenet_top1"]) for row in reference}
    variants = [zoo.get(name) for name in zoo.names()]
    assert {
        v.name: (v.paper_name, v.weights["pycls_in1k"].top1)
        for v in variants
        if "pycls_in1k" in v.weights
    } == published
    others = {v.name: v.paper_name for v in variants if v.paper_name and v.name not in published}
    assert others == {
        "regnety_640": "RegNetY-64GF",
        "regnety_1280": "RegNetY-128GF",
        "regnety_2560": "RegNetY-256GF",
    }


def test_top1_of_other_weights_is_what_timm_measured():
    """Of `results/results-imagenet.csv` of timm's repository, at the size of the training."""
    with (Path(__file__).parent / "data" / "timm_top1.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    found = {}
    for name in zoo.names():
        for tag, weights in zoo.get(name).weights.items():
            assert (weights.top1 is None) == (weights.num_classes != 1000)
            if weights.top1 is not None and tag not in {"pycls_in1k", *TORCHVISION_TAGS}:
                found[f"{name}.{tag}"] = (str(weights.input_size[1]), weights.top1)
    assert found == {model: (r["img_size"], float(r["top1"])) for model, r in rows.items()}


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("regnety_032", "regnety_032"),
        ("RegNetY-3.2GF", "regnety_032"),
        ("regnetx_3.2gf", "regnetx_032"),
        ("RegNetX-4.0GF", "regnetx_040"),
        ("RegNetX-4GF", "regnetx_040"),
        ("regnet_y_3_2gf", "regnety_032"),
        ("regnet_x_400mf", "regnetx_004_tv"),
        ("RegNetX-400MF", "regnetx_004"),
        ("regnet_y_8gf", "regnety_080_tv"),
        ("RegNetY-8.0GF", "regnety_080"),
    ],
)
def test_get_knows_the_names_of_other_projects(alias, name):
    assert zoo.get(alias).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("regnetx_41", "did you mean 'regnetx_040'"),
        ("timm-regnety_032", "did you mean 'regnety_032'"),
        ("RegNetY_032", "did you mean 'regnety_032'"),
        ("resnet50", "unknown RegNet 'resnet50'"),
        ("", "unknown RegNet ''"),
        (
            "regnety_032.ra9",
            "the name 'regnety_032' and .*known tags: ra_in1k, tv2_in1k, pycls_in1k",
        ),
        ("regnetz_005.x", "known tags: none"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        zoo.get(name)


def test_weights_are_read_only():
    with pytest.raises(TypeError):
        zoo.get("regnety_032").weights["mine"] = None


def test_variants_are_hashable_and_copied_by_name():
    variant = zoo.get("regnety_032")
    assert pickle.loads(pickle.dumps(variant)) is variant
    assert copy.deepcopy(variant) is variant
    assert len({zoo.get(name) for name in zoo.names()}) == len(zoo.names())
