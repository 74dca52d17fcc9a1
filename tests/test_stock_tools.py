"""Detectron2's own tools, unmodified, with our configs: `DETECTRON2_ENV_MODULE=regnet_backbones`.

They are those of the detectron2 that is installed and, where the environment variable
`REGNET_BACKBONES_DETECTRON2` names a checkout of upstream, compiled or not, also those of the
checkout.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import detectron2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.utils.visualizer import Visualizer
from fresh_processes import run_in_fresh_processes
from PIL import Image

from regnet_backbones import RegNetDesign, add_regnet_config, complexity, config_path, shapes

CHECKOUT = "REGNET_BACKBONES_DETECTRON2"
QUICK = config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
LAZY = config_path("detectron2/lazy/quick/mask_rcnn_regnet_small_fpn.py")
DESIGN = RegNetDesign(w_0=48, w_a=28.0, w_m=1.8, depth=7, group_width=16)
SIDE = 64
SMALL = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", f"({SIDE},)", "INPUT.MIN_SIZE_TEST", SIDE]


# As `python <tool> <arguments>` would run it.
RUN_TOOL = """
import os, runpy, sys
os.environ.update(DETECTRON2_ENV_MODULE="regnet_backbones", DETECTRON2_DATASETS={folder!r})
os.chdir({folder!r})
sys.path.insert(0, os.path.dirname({tool!r}))
sys.argv = {argv!r}
runpy.run_path({tool!r}, run_name="__main__")
"""


@dataclass(frozen=True)
class Stock:
    """A detectron2, the folder in which its tools were run, and what each printed.

    Its tools are in `root / "tools"`: `install-detectron2` puts them into the package.
    """

    root: Path
    folder: Path
    printed: dict[str, str]

    @property
    def trained(self):
        return self.folder / "trained"

    def pictures(self, split):
        return sorted((self.folder / "shapes" / "images" / split).iterdir())


@pytest.fixture(scope="module", params=["installed", "checkout"])
def stock(request, tmp_path_factory):
    """Run the tools, each in a process of its own."""
    root, paths = Path(detectron2.__file__).parent, ()
    if request.param == "checkout":
        if not os.environ.get(CHECKOUT):
            pytest.skip(f"set {CHECKOUT} to a checkout of detectron2 to try its tools, too")
        root = Path(os.environ[CHECKOUT]).resolve()
        paths = (root,)
    folder = tmp_path_factory.mktemp(request.param)
    shapes.write(folder / "shapes", shapes.ShapesSpec(num_train=3, num_val=2, image_size=SIDE))
    trained = folder / "trained"
    weights = ("MODEL.WEIGHTS", trained / "model_final.pth")
    calls = {
        "tools/train_net": (
            *("--config-file", QUICK, *SMALL, "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2),
            *("OUTPUT_DIR", trained),
        ),
        "tools/lazyconfig_train_net": (
            *("--config-file", LAZY, "train.max_iter=2", f"train.output_dir={folder}/lazy"),
            *("train.device=cpu", "dataloader.train.total_batch_size=2"),
            "model.backbone.bottom_up.norm=SyncBN",
        ),
        "tools/visualize_data": (
            *("--source", "annotation", "--config-file", QUICK),
            *("--output-dir", folder / "annotations"),
        ),
        # It needs two images: of one it divides by nought.
        "tools/analyze_model": (
            *("--tasks", "flop", "activation", "parameter", "structure", "--num-inputs", 2),
            *("--config-file", QUICK, *SMALL, *weights, "TEST.DETECTIONS_PER_IMAGE", 2),
        ),
        "demo/demo": (
            *("--config-file", trained / "config.yaml", "--output", folder / "demo", "--input"),
            *(folder / "shapes" / "images" / "val" / f"{n:06}.png" for n in range(2)),
            *("--confidence-threshold", 0.01, "--opts", *weights),
        ),
    }
    if request.param == "installed":  # the distribution has no demo
        del calls["demo/demo"]
    codes = {}
    for name, arguments in calls.items():
        tool = str(root / f"{name}.py")
        argv = [tool, *map(str, arguments)]
        codes[name.replace("/", "_")] = RUN_TOOL.format(folder=str(folder), tool=tool, argv=argv)
    (folder / "demo").mkdir()
    return Stock(root, folder, run_in_fresh_processes(codes, folder, paths))


def test_train_net(stock):
    assert "copypaste: Task: segm" in stock.printed["tools_train_net"]
    checkpoint = torch.load(stock.trained / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 1
    assert "backbone.bottom_up.s1.b1.conv1.conv.weight" in checkpoint["model"]
    # SOLVER.OPTIMIZER of our config is followed: SGD has no betas.
    assert "betas" in checkpoint["trainer"]["_trainer"]["optimizer"]["param_groups"][0]


def test_lazyconfig_train_net(stock):
    printed = stock.printed["tools_lazyconfig_train_net"]
    assert "copypaste: Task: segm" in printed
    assert "SyncBatchNormAct" in printed
    checkpoint = torch.load(stock.folder / "lazy" / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 1
    assert checkpoint["model"]["backbone.bottom_up.s1.b1.conv1.bn.num_batches_tracked"] == 2


def test_visualize_data_draws_annotations(stock):
    drawn = stock.folder / "annotations"
    for plain in stock.pictures("train"):
        picture = np.asarray(Image.open(drawn / plain.name).convert("RGB"), dtype=int)
        assert picture.shape == (SIDE, SIDE, 3)
        assert np.abs(picture - np.asarray(Image.open(plain).convert("RGB"))).mean() > 5
    assert len(list(drawn.iterdir())) == 3


def test_analyze_model_counts_what_the_design_costs(stock):
    printed = stock.printed["tools_analyze_model"]
    cost = complexity(DESIGN, image_size=SIDE, num_classes=None)
    # fvcore counts two for each output of a batch norm, of which every convolution has one.
    flops = cost.flops + 2 * cost.activations
    table, parameters = re.findall(r"\| +backbone.bottom_up +\|(.*)\|", printed)
    assert [cell.strip() for cell in table.split("|")] == [
        f"{cost.params / 1e6:.3f}M",
        f"{flops / 1e6:.3f}M",
    ]
    assert parameters.split("|")[0].strip() == f"{cost.params / 1e6:.1f}M"
    assert "Total (Million) Activations" in printed
    assert re.search(r"RegNetBackbone\(\s+RegNetDesign\(w_0=48", printed)


@pytest.mark.parametrize("stock", ["checkout"], indirect=True)
def test_demo(stock):
    output = stock.folder / "demo"
    assert len(re.findall(r"detected \d+ instances", stock.printed["demo_demo"])) == 2
    assert {Image.open(file).size for file in output.iterdir()} == {(SIDE, SIDE)}
    assert {file.name for file in output.iterdir()} == {p.name for p in stock.pictures("val")}


@pytest.mark.parametrize("stock", ["installed"], indirect=True)
def test_default_predictor_and_visualizer(stock):
    """What the demo does, in a script that imports us."""
    cfg = get_cfg()
    add_regnet_config(cfg)
    cfg.merge_from_file(str(stock.trained / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(stock.trained / "model_final.pth")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.01
    predictor = DefaultPredictor(cfg)
    bgr = cv2.imread(str(stock.pictures("val")[0]))
    given = predictor(bgr)["instances"]
    # The weights saw RGB, and the image has the size that the config wants.
    image = torch.as_tensor(np.ascontiguousarray(bgr[:, :, ::-1].transpose(2, 0, 1)))
    with torch.no_grad():
        (expected,) = predictor.model([{"image": image, "height": SIDE, "width": SIDE}])
    assert len(given) > 0
    torch.testing.assert_close(given.scores, expected["instances"].scores)
    visualizer = Visualizer(bgr[:, :, ::-1], MetadataCatalog.get(cfg.DATASETS.TEST[0]))
    drawn = visualizer.draw_instance_predictions(given).get_image()
    assert np.abs(drawn.astype(int) - bgr[:, :, ::-1]).mean() > 5
