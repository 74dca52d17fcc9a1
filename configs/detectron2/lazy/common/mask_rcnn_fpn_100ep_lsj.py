"""Mask R-CNN from random weights in 100 epochs of COCO with large-scale jitter.

The recipe of detectron2's new baselines (Simple Copy-Paste, arXiv 2012.07177, without the copying),
which its own RegNets were published with: 64 images of 1024 pixels an iteration, batch norm
everywhere, and larger heads. To start from a classifier set `train.init_checkpoint`, such as
`timm://regnety_040.pycls_in1k`. On CPUs see `train.py`; several processes without GPUs also need
`model.backbone.bottom_up.norm=BN model.backbone.norm=BN`.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from .coco import dataloader
from .mask_rcnn_fpn import model
from .optim import optimizer
from .train import train

model.backbone.bottom_up.freeze_at = 0
model.backbone.bottom_up.norm = "SyncBN"
model.backbone.norm = "SyncBN"
# A process may have no regions, which torch's SyncBatchNorm, SyncBN, refuses.
HEAD_NORM = "naiveSyncBN_N"
model.proposal_generator.head.conv_dims = [-1, -1]
model.roi_heads.box_head.update(conv_dims=[256, 256, 256, 256], fc_dims=[1024], conv_norm=HEAD_NORM)
model.roi_heads.mask_head.conv_norm = HEAD_NORM

IMAGE_SIZE = 1024
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(
        min_scale=0.1, max_scale=2.0, target_height=IMAGE_SIZE, target_width=IMAGE_SIZE
    ),
    L(T.FixedSizeCrop)(crop_size=(IMAGE_SIZE, IMAGE_SIZE)),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.train.mapper.recompute_boxes = True  # of what the crop left of a mask
dataloader.train.total_batch_size = 64

optimizer.lr = 0.1
optimizer.weight_decay = 4e-5

train.amp.enabled = True
train.ddp.fp16_compression = True
train.max_iter = 184375  # 100 epochs of 118,000 images

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[163889, 177546],
        num_updates=train.max_iter,
    ),
    warmup_length=500 / train.max_iter,
    warmup_factor=0.067,
)
