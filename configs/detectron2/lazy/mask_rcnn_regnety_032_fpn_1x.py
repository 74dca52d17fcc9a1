"""The recipe of `mask_rcnn_regnety_032_fpn_1x.yaml`: 12 epochs of COCO, from a classifier."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from .common.coco import dataloader
from .common.mask_rcnn_fpn import model
from .common.optim import optimizer
from .common.train import train

model.backbone.bottom_up.name_or_design = "regnety_032"
train.init_checkpoint = "timm://regnety_032.pycls_in1k"

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[60000, 80000],
        num_updates=train.max_iter,
    ),
    warmup_length=1000 / train.max_iter,
    warmup_factor=0.001,
)
