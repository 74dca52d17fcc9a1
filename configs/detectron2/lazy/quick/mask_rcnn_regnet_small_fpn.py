"""The demo's Mask R-CNN, `quick/mask_rcnn_regnet_small_fpn.yaml`, as a LazyConfig."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import CosineParamScheduler

from regnet_backbones import RegNetDesign

from ..common.coco import dataloader
from ..common.mask_rcnn_fpn import model
from ..common.train import train

model.backbone.update(out_channels=64, norm="BN")
model.backbone.bottom_up.update(
    name_or_design=L(RegNetDesign)(w_0=48, w_a=28.0, w_m=1.8, depth=7, group_width=16),
    norm="BN",
    freeze_at=0,
)
model.proposal_generator.anchor_generator.sizes = [[12], [24], [48], [72], [96]]
model.proposal_generator.head.conv_dims = [64]
model.proposal_generator.update(
    batch_size_per_image=64, pre_nms_topk=(100, 200), post_nms_topk=(50, 50)
)
model.roi_heads.update(num_classes=5, batch_size_per_image=16, positive_fraction=0.5)
model.roi_heads.box_head.update(conv_dims=[64, 64], fc_dims=[256], conv_norm="GN")
model.roi_heads.box_predictor.update(cls_agnostic_bbox_reg=True, smooth_l1_beta=0.5)
model.roi_heads.box_predictor.input_shape.channels = 256
model.roi_heads.mask_head.update(conv_dims=[64, 64, 64], conv_norm="BN")
model.roi_heads.box_pooler.sampling_ratio = 2
model.roi_heads.mask_pooler.sampling_ratio = 2

dataloader.train.dataset.names = "shapes_train"
dataloader.test.dataset.names = "shapes_val"
dataloader.train.mapper.augmentations[0].short_edge_length = (128,)
dataloader.test.mapper.augmentations[0].short_edge_length = 128
dataloader.train.update(total_batch_size=8, num_workers=0)
dataloader.test.num_workers = 0

# From random weights SGD needs many times the iterations.
optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=0.0015, weight_decay=0.01
)

train.update(
    output_dir="output/shapes_lazy",
    max_iter=1500,
    eval_period=750,
    seed=0,
    device="cuda" if torch.cuda.is_available() else "cpu",
)
train.checkpointer.period = 100

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_length=40 / train.max_iter,
    warmup_factor=0.001,
)
