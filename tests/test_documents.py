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
from PIL import Image
from small_detector import save_detector

from regnet_backbones.detection.config import default_config
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.weights.sources import PREFIXES, find_source

DEFAULTS = default_config()

# Large images, of which small ones show the same.
SIDES = ("512", "640")


every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)


def blocks(language):
    """Return the fenced blocks of a language, with their documents, as parameters of a test."""
    return [
        pytest.param(path, block, id=f"{name_of(path)}-{number}")
        for path in DOCUMENTS
        for number, block in enumerate(documents.blocks(path.read_text(), language))
    ]


@every_document
def test_commands_can_be_given(path, segmenter_parser):
    for command in documents.commands(path.read_text()):
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


@every_document
def test_links_lead_somewhere(path):
    for target in documents.links(path.read_text()):
        if re.match(r"\w+:", target):
            parts = urlsplit(target)
            assert parts.scheme == "https", target
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), target
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.is_file(), target
        assert not anchor or anchor in documents.anchors(linked.read_text()), target


@pytest.mark.parametrize(("path", "block"), blocks("python"))
def test_code_runs(path, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_config.yaml").write_text("VERSION: 2\n")
    if "output/mine" in block:
        (tmp_path / "output" / "mine").mkdir(parents=True)
        save_detector(tmp_path / "output" / "mine")
        Image.new("RGB", (64, 48)).save("photo.jpg")
    for side in SIDES:
        block = block.replace(side, "64")
    exec(compile(block, name_of(path), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("path", "block"), blocks("yaml"))
def test_configs_are_of_keys_that_exist(path, block):
    default_config().merge_from_other_cfg(CfgNode(yaml.safe_load(block)))


KEY = r"`((?:MODEL|SOLVER|INPUT|DATASETS|DATALOADER|TEST|OPTIMIZE)(?:\.[A-Z0-9_]+)+)[`: ]"


@every_document
def test_keys_exist(path):
    for key in re.findall(KEY, path.read_text()):
        node = DEFAULTS
        for part in key.split("."):
            assert part in node, key
            node = node[part]


OPTION = r"--(data|model)\.(\w+)"


@every_document
def test_options_of_segmenters_exist(path):
    for group, option in re.findall(OPTION, path.read_text()):
        owner = {"data": SegmentationData, "model": Segmenter}[group]
        assert option in inspect.signature(owner).parameters, option


PATH = r"`((?:configs|docs|regnet_backbones|requirements|tests|tools|benchmarks)/[\w./-]+)[` ]"


@every_document
def test_files_that_are_named_exist(path):
    missing = [name for name in re.findall(PATH, path.read_text()) if not (ROOT / name).exists()]
    assert not missing


SOURCE = rf"[`\"]((?:{'|'.join(PREFIXES)})[\w.-]+)[`\"]"


@every_document
def test_weights_that_are_named_exist(path):
    for source in re.findall(SOURCE, path.read_text()):
        assert find_source(source).variant is not None, source
