"""Detectron2's own tools, unmodified, with our configs: `DETECTRON2_ENV_MODULE=regnet_backbones`.

They are those of the detectron2 that is installed and, where the environment variable
`REGNET_BACKBONES_DETECTRON2` names a checkout of upstream, compiled or not, also those of the
checkout.
"""

import os
import re
import subprocess
import sys
import time
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
from PIL import Image

from regnet_backbones import RegNetDesign, add_regnet_config, complexity, config_path, shapes

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKOUT = "REGNET_BACKBONES_DETECTRON2"
QUICK = config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
LAZY = config_path("detectron2/lazy/quick/mask_rcnn_regnet_small_fpn.py")
DESIGN = RegNetDesign(w_0=48, w_a=28.0, w_m=1.8, depth=7, group_width=16)
SIDE = 64
SMALL = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", f"({SIDE},)", "INPUT.MIN_SIZE_TEST", SIDE]


@dataclass(frozen=True)
class Stock:
    """A detectron2 and the folder in which it is tried.

    Its tools are in `root / "tools"`: beside the package, where it was installed as where it was
    checked out.
    """

    root: Path
    folder: Path

    def start(self, tool, *arguments):
        variables = {
            "DETECTRON2_ENV_MODULE": "regnet_backbones",
            "DETECTRON2_DATASETS": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(self.root), str(REPOSITORY)]),
        }
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", self.root / tool, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **variables},
            cwd=self.folder,
        )

    def run(self, tool, *arguments):
        """Run a tool to its end and return what it printed."""
        process = self.start(tool, *arguments)
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        assert "does not fit" not in printed  # a fix of ours
        return printed

    def pictures(self, split):
        return sorted((self.folder / "shapes" / "images" / split).iterdir())


@pytest.fixture(scope="module", params=["installed", "checkout"])
def stock(request, tmp_path_factory):
    root = Path(detectron2.__file__).parent.parent
    if request.param == "checkout":
        if not os.environ.get(CHECKOUT):
            pytest.skip(f"set {CHECKOUT} to a checkout of detectron2 to try its tools, too")
        root = Path(os.environ[CHECKOUT]).resolve()
    folder = tmp_path_factory.mktemp(request.param)
    shapes.write(folder / "shapes", shapes.ShapesSpec(num_train=3, num_val=2, image_size=SIDE))
    return Stock(root, folder)


@pytest.fixture(scope="module")
def trained(stock):
    """Train two iterations with `train_net.py` and return the folder of the run."""
    output = stock.folder / "trained"
    options = ["SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "OUTPUT_DIR", output]
    printed = stock.run("tools/train_net.py", "--config-file", QUICK, *SMALL, *options)
    assert "copypaste: Task: segm" in printed
    return output


def test_train_net(trained):
    checkpoint = torch.load(trained / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 1
    assert "backbone.bottom_up.s1.b1.conv1.conv.weight" in checkpoint["model"]
    # SOLVER.OPTIMIZER of our config is followed: SGD has no betas.
    assert "betas" in checkpoint["trainer"]["_trainer"]["optimizer"]["param_groups"][0]


def test_lazyconfig_train_net(stock):
    output = stock.folder / "lazy"
    printed = stock.run(
        *("tools/lazyconfig_train_net.py", "--config-file", LAZY),
        *("train.max_iter=2", f"train.output_dir={output}", "train.device=cpu"),
        *("dataloader.train.total_batch_size=2", "model.backbone.bottom_up.norm=SyncBN"),
    )
    assert "copypaste: Task: segm" in printed
    assert "SyncBatchNormAct" in printed
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 1
    assert checkpoint["model"]["backbone.bottom_up.s1.b1.conv1.bn.num_batches_tracked"] == 2


def test_visualize_data_draws_annotations(stock):
    output = stock.folder / "annotations"
    arguments = ("--source", "annotation", "--config-file", QUICK, "--output-dir", output)
    stock.run("tools/visualize_data.py", *arguments)
    for plain in stock.pictures("train"):
        drawn = np.asarray(Image.open(output / plain.name).convert("RGB"), dtype=int)
        assert drawn.shape == (SIDE, SIDE, 3)
        assert np.abs(drawn - np.asarray(Image.open(plain).convert("RGB"))).mean() > 5
    assert len(list(output.iterdir())) == 3


def test_visualize_data_draws_what_the_loader_yields(stock):
    """Which has no end: the tool is stopped once it has drawn something."""
    output = stock.folder / "loaded"
    arguments = ("--source", "dataloader", "--config-file", QUICK, "--output-dir", output)
    process = stock.start("tools/visualize_data.py", *arguments, *SMALL, "SOLVER.IMS_PER_BATCH", 2)
    while process.poll() is None and len(list(output.glob("*.jpg"))) < 2:
        time.sleep(0.1)
    ended = process.poll()
    process.kill()
    assert ended is None, process.communicate()[0]
    process.communicate()


def test_analyze_model_counts_what_the_design_costs(stock, trained):
    """The tool needs two images: of one it divides by nought."""
    tasks = ("flop", "activation", "parameter", "structure")
    printed = stock.run(
        *("tools/analyze_model.py", "--tasks", *tasks, "--num-inputs", 2, "--config-file", QUICK),
        *(*SMALL, "MODEL.WEIGHTS", trained / "model_final.pth", "TEST.DETECTIONS_PER_IMAGE", 2),
    )
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
def test_demo(stock, trained):
    """The distribution has no demo."""
    output = stock.folder / "demo"
    output.mkdir()
    printed = stock.run(
        *("demo/demo.py", "--config-file", trained / "config.yaml", "--output", output),
        *("--input", *stock.pictures("val"), "--confidence-threshold", 0.01),
        *("--opts", "MODEL.WEIGHTS", trained / "model_final.pth"),
    )
    assert len(re.findall(r"detected \d+ instances", printed)) == 2
    assert {Image.open(file).size for file in output.iterdir()} == {(SIDE, SIDE)}
    assert {file.name for file in output.iterdir()} == {p.name for p in stock.pictures("val")}


@pytest.mark.parametrize("stock", ["installed"], indirect=True)
def test_default_predictor_and_visualizer(stock, trained):
    """What the demo does, in a script that imports us."""
    cfg = get_cfg()
    add_regnet_config(cfg)
    cfg.merge_from_file(str(trained / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(trained / "model_final.pth")
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
