"""RegNetY-4GF: see `common/mask_rcnn_fpn_100ep_lsj.py`."""

from .common.mask_rcnn_fpn_100ep_lsj import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.name_or_design = "regnety_040"
