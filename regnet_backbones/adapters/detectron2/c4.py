"""Heads of a "C4" detector: the last stage of the RegNet runs on each region.

As `Res5ROIHeads` of `detectron2/modeling/roi_heads/roi_heads.py` does with ResNet's res5 (ResNet,
arXiv 1512.03385, appendix A). The backbone gives C4 (`MODEL.REGNET.OUT_FEATURES: ["res4"]`), a
region of it is pooled to 14 x 14, and the stage makes 7 x 7 of that.
"""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from regnet_backbones.adapters.detectron2.config import regnet_node
from regnet_backbones.adapters.detectron2.network import network_of
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.norm import Norm


class RegNetLastStage(nn.Module):
    """The last stage of a RegNet, which makes C5 of C4. Parameters keep timm's names (`s4.b1...`).

    Args:
        name_or_design: a name of `regnet_backbones.zoo.names()`, or a `RegNetDesign`.
        norm, drop_path_rate, grad_checkpointing: see `RegNetFeatures`.

    Attributes:
        out_channels: channels of C5.
        stage_of: the network that the stage is of; its weights come from that network's files.

    Raises:
        ValueError: as `RegNetFeatures`, or for regnetz_b16 to e8, whose C5 is made by more than a
            stage.
    """

    def __init__(
        self,
        name_or_design: str | RegNetDesign,
        *,
        norm: Norm = "FrozenBN",
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
    ):
        super().__init__()
        network = RegNetFeatures(
            name_or_design,
            norm=norm,
            drop_path_rate=drop_path_rate,
            grad_checkpointing=grad_checkpointing,
            out_levels=(5,),
        )
        if network.level_parts[5] != ("s4",):
            raise UserError(
                f"{name_or_design} has no single last stage that could run on regions; use one of "
                "regnetx, regnety, regnetv, or MODEL.REGNET.OUTPUT_STRIDE 16 with "
                "'StandardROIHeads' (DC5)"
            )
        self.s4 = network.s4
        self.out_channels = network.channels[5]
        self.stage_of = network.name or network.design

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return C5 (N, out_channels, ceil(H / 2), ceil(W / 2)) of C4 (N, channels, H, W)."""
        return self.s4(x)


@ROI_HEADS_REGISTRY.register()
class RegNetRes5ROIHeads(Res5ROIHeads):
    """Detectron2's `Res5ROIHeads` with the last stage of `MODEL.REGNET` as its res5.

    `MODEL.WEIGHTS` of a classifier fill it along with the backbone.
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Module, int]:
        """Return the stage and its output channels, as `Res5ROIHeads.from_config` asks for them."""
        node = regnet_node(cfg)
        if node.OUTPUT_STRIDE != 32:
            raise UserError(
                "RegNetRes5ROIHeads runs the last stage with stride 2: MODEL.REGNET.OUTPUT_STRIDE "
                f"must be 32, got {node.OUTPUT_STRIDE}; for a dilated C5 use 'StandardROIHeads'"
            )
        stage = RegNetLastStage(
            network_of(node),
            norm=node.NORM,
            drop_path_rate=node.DROP_PATH_RATE,
            grad_checkpointing=node.GRAD_CHECKPOINT,
        )
        return stage, stage.out_channels
