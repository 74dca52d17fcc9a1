"""Every document says what is true: commands can be given, code runs, links lead somewhere."""

import inspect
import re
from urllib.parse import urlsplit

import documents
import pytest
import yaml
from detectron2.config import CfgNode
from documented_commands import check
from documents import DOCUMENTS, ROOT, name_of

from regnet_backbones.detection.config import default_config
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.weights.sources import PREFIXES, find_source

# Large images, of which small ones show the same.
SIDES = ("512", "640")


def found(select):
    """Return what a function finds in each document, with the document, as parameters of a test."""
    return [
        pytest.param(path, each, id=f"{name_of(path)}-{number}")
        for path in DOCUMENTS
        for number, each in enumerate(select(path.read_text()))
    ]


def blocks(language):
    return found(lambda text: documents.blocks(text, language))


@pytest.mark.parametrize(("path", "command"), found(documents.commands))
def test_commands_can_be_given(path, command, segmenter_parser):
    check(command, segmenter_parser)


@pytest.mark.parametrize(
    "command",
    [
        "cp a b",
        "python tools/train_nets.py --help",
        "python tools/evaluate.py output/demo --optimise",
        "python tools/train_net.py --config-file configs/detectron2/absent.yaml",
        "python tools/train_net.py --config-file my.yaml SOLVER.MAX_ITERS 5",
        "python tools/export.py regnety_033 --output a.onnx",
        "python tools/design.py search --reference regnety_033",
        "torchrun tools/train_net.py --config-files a.yaml",
        "regnet-backbones train-detectors --config-file a.yaml",
        "regnet-backbones train-detector --config-file mask_rcnn_regnety_033_fpn_1x",
        "UNKNOWN=1 make test",
        "make tests",
        "pip install -r requirements/absent.txt",
        'pip install ".[everything]"',
        "pip install --no-such-option torch",
    ],
)
def test_commands_that_cannot_be_given_are_found(command, segmenter_parser):
    with pytest.raises((AssertionError, KeyError, ValueError, OSError)):
        check(command, segmenter_parser)


@pytest.mark.parametrize(("path", "target"), found(documents.links))
def test_links_lead_somewhere(path, target):
    if re.match(r"\w+:", target):
        parts = urlsplit(target)
        assert parts.scheme == "https"
        assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc)
        return
    file, _, anchor = target.partition("#")
    linked = path.parent / file if file else path
    assert linked.is_file(), target
    if anchor:
        assert anchor in documents.anchors(linked.read_text()), target


@pytest.mark.parametrize(("path", "block"), blocks("python"))
def test_code_runs(path, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_config.yaml").write_text("VERSION: 2\n")
    for side in SIDES:
        block = block.replace(side, "64")
    exec(compile(block, name_of(path), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("path", "block"), blocks("yaml"))
def test_configs_are_of_keys_that_exist(path, block):
    default_config().merge_from_other_cfg(CfgNode(yaml.safe_load(block)))


KEY = r"`((?:MODEL|SOLVER|INPUT|DATASETS|DATALOADER|TEST|OPTIMIZE)(?:\.[A-Z0-9_]+)+)[`: ]"


@pytest.mark.parametrize(("path", "key"), found(lambda text: re.findall(KEY, text)))
def test_keys_exist(path, key):
    node = default_config()
    for part in key.split("."):
        assert part in node, key
        node = node[part]


OPTION = r"--(data|model)\.(\w+)"


@pytest.mark.parametrize(("path", "option"), found(lambda text: re.findall(OPTION, text)))
def test_options_of_segmenters_exist(path, option):
    owner = {"data": SegmentationData, "model": Segmenter}[option[0]]
    assert option[1] in inspect.signature(owner).parameters


PATH = r"`((?:configs|docs|regnet_backbones|requirements|tests|tools|benchmarks)/[\w./-]+)[` ]"


@pytest.mark.parametrize(("path", "named"), found(lambda text: re.findall(PATH, text)))
def test_files_that_are_named_exist(path, named):
    assert (ROOT / named).exists(), named


SOURCE = rf"[`\"]((?:{'|'.join(PREFIXES)})[\w.-]+)[`\"]"


@pytest.mark.parametrize(("path", "source"), found(lambda text: re.findall(SOURCE, text)))
def test_weights_that_are_named_exist(path, source):
    assert find_source(source).variant is not None
