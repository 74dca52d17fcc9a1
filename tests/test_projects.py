"""Other people's projects on our backbones: each trains two iterations and predicts one image.

A project runs where `REGNET_BACKBONES_<PROJECT>` names a checkout of it, or the folder in which it
is installed, and is skipped elsewhere. docs/projects.md lists what each needs besides.
"""

import os
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from fresh_processes import run_in_fresh_processes
from project_scripts import LIGHTLY, PEOPLE, SAHI, SCRIPT, SEGMENT, START, TERRATORCH, TORCHGEO

from regnet_backbones import config_path, shapes

SIDE = 64
P67 = "build_fcos_regnet_fpn_backbone"
FPN = "build_regnet_fpn_backbone"
PLAIN = "build_regnet_backbone"
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def train(config, builder, *options, before="", script="train_net.py", root):
    """Return code that trains a config of the project with `builder`, on small images."""
    small = ("MODEL.REGNET.NAME", "regnetx_002", "MODEL.WEIGHTS", "timm.pth")
    small += ("MODEL.PIXEL_MEAN", MEAN, "MODEL.PIXEL_STD", STD, "INPUT.FORMAT", "RGB")
    small += ("MODEL.BACKBONE.NAME", builder, "MODEL.DEVICE", "cpu")
    small += ("DATASETS.TRAIN", "('shapes_train',)", "DATASETS.TEST", "('shapes_val',)")
    small += ("INPUT.MIN_SIZE_TRAIN", f"({SIDE},)", "INPUT.MIN_SIZE_TEST", SIDE)
    small += ("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()")
    small += ("DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", f"output/{config.replace('/', '_')}")
    arguments = ["--config-file", f"{root}/configs/{config}", *map(str, (*small, *options))]
    return START + before + SCRIPT.format(script=f"{root}/{script}", arguments=arguments)


# With fewer than 5 iterations its loop ends in a division by zero, in detectron2's log.
AT_LEAST_5 = ("SOLVER.MAX_ITER", 5, "MODEL.FCOS.NUM_CLASSES", 5, "MODEL.SOLOV2.NUM_CLASSES", 5)
adelaidet = partial(
    train, script="tools/train_net.py", before='sys.modules["adet._C"] = types.ModuleType("_C")\n'
)
LEVELS = "['p3', 'p4', 'p5']"
P35 = ("MODEL.FCOS.TOP_LEVELS", 0, "MODEL.ROI_HEADS.IN_FEATURES", LEVELS)
P35 += ("MODEL.CENTERNET.IN_FEATURES", LEVELS, "MODEL.CENTERNET.FPN_STRIDES", [8, 16, 32])
P35 += ("MODEL.CENTERNET.SOI", [[0, 80], [64, 160], [128, 10000000]])
MSDA = 'sys.modules["MultiScaleDeformableAttention"] = types.ModuleType("MSDA")\n'
PANOPTIC = ("DATASETS.TRAIN", "('shapes_panoptic_train',)")
PANOPTIC += ("DATASETS.TEST", "('shapes_panoptic_val',)", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6)
SEMANTIC = ("DATASETS.TRAIN", "('shapes_sem_seg_train',)")
SEMANTIC += ("DATASETS.TEST", "('shapes_sem_seg_val',)", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6)
SEMANTIC += ("INPUT.CROP.SIZE", (SIDE, SIDE), "INPUT.SIZE_DIVISIBILITY", SIDE)
ON_CPU = ("SOLVER.AMP.ENABLED", False, "INPUT.IMAGE_SIZE", SIDE)


def plain(code, *, root, **values):
    """Return code that needs no project's script."""
    return START + (code.format(**values) if values else code)


QUICK = str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
BLENDMASK = ("MODEL.BASIS_MODULE.LOSS_ON", False)
PROJECTS = {
    "ADELAIDET": [
        partial(adelaidet, "FCOS-Detection/R_50_1x.yaml", P67, *AT_LEAST_5),
        partial(adelaidet, "CondInst/MS_R_50_1x.yaml", P67, *AT_LEAST_5),
        partial(adelaidet, "BoxInst/MS_R_50_1x.yaml", P67, *AT_LEAST_5),
        partial(adelaidet, "BlendMask/R_50_1x.yaml", P67, *AT_LEAST_5, *BLENDMASK),
        partial(adelaidet, "SOLOv2/R50_3x.yaml", FPN, *AT_LEAST_5),
    ],
    "MASKFORMER": [
        partial(train, "coco-panoptic/maskformer_panoptic_R50_bs64_554k.yaml", PLAIN, *PANOPTIC),
        partial(train, "ade20k-150/maskformer_R50_bs16_160k.yaml", PLAIN, *SEMANTIC),
    ],
    "MASK2FORMER": [
        partial(train, f"coco/{name}/maskformer2_R50_bs16_50ep.yaml", PLAIN, *options, before=MSDA)
        for name, options in {
            "panoptic-segmentation": (*PANOPTIC, *ON_CPU),
            "instance-segmentation": ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5, *ON_CPU),
        }.items()
    ],
    "CENTERNET2": [
        partial(train, "CenterNet2_R50_1x.yaml", P67, *options, "MODEL.ROI_HEADS.NUM_CLASSES", 5)
        for options in ((), P35)
    ],
    "DIFFUSIONDET": [
        partial(train, "diffdet.coco.res50.yaml", FPN, "MODEL.DiffusionDet.NUM_CLASSES", 5)
    ],
    "SPARSERCNN": [
        partial(
            *(train, "sparsercnn.res50.100pro.3x.yaml", FPN, "MODEL.SparseRCNN.NUM_CLASSES", 5),
            before='import torchvision\ntorchvision.__version__ = "1.0"\n',  # of 0.29 it reads 0.2
        )
    ],
    "DENSEPOSE": [
        partial(
            *(train, "densepose_rcnn_R_50_FPN_s1x.yaml", FPN),
            *("DATASETS.TRAIN", "('people',)", "DATASETS.TEST", "()"),
            before=PEOPLE,
        )
    ],
    "TORCHGEO": [partial(plain, SEGMENT, side=SIDE, task=TORCHGEO)],
    "TERRATORCH": [partial(plain, SEGMENT, side=SIDE, task=TERRATORCH)],
    "SAHI": [partial(plain, SAHI, config=QUICK)],
    "LIGHTLY_TRAIN": [partial(plain, LIGHTLY)],
}


@pytest.mark.parametrize("project", PROJECTS)
def test_a_project_trains_and_predicts(project, tmp_path):
    variable = f"REGNET_BACKBONES_{project}"
    if not os.environ.get(variable):
        pytest.skip(f"set {variable} to a checkout of the project to run it")
    root = Path(os.environ[variable]).resolve()
    shapes.write(tmp_path / "shapes", shapes.ShapesSpec(num_train=4, num_val=2, image_size=SIDE))
    torch.save(timm.create_model("regnetx_002").state_dict(), tmp_path / "timm.pth")
    codes = {str(n): make(root=root) for n, make in enumerate(PROJECTS[project])}
    for text in run_in_fresh_processes(codes, tmp_path, (root,)).values():
        assert "predicted" in text
