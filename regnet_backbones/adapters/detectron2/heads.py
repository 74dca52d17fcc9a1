"""Models and heads on our backbones: C4 heads, and FCOS from a YAML config.

A "C4" detector runs the last stage of the network on each region, as detectron2's `Res5ROIHeads`
does with ResNet's res5 (arXiv 1512.03385, appendix A): the backbone gives C4, a region of it is
pooled to 14 x 14, and the stage makes 7 x 7 of that. FCOS (arXiv 1904.01355) detectron2 has for its
Python configs only.
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from regnet_backbones.adapters.detectron2.config import fcos_node, regnet_node
from regnet_backbones.adapters.detectron2.network import network_of
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.norm import Norm, activated_norms, restore_activations


class RegNetLastStage(nn.Module):
    """The last stage of a RegNet, `stage_of`: it makes C5 of C4. Names are timm's (`s4.b1...`)."""

    def __init__(
        self, name_or_design: str | RegNetDesign, *, norm: Norm = "FrozenBN", **options: object
    ):
        super().__init__()
        network = RegNetFeatures(name_or_design, norm=norm, out_levels=(5,), **options)
        if network.level_parts[5] != ("s4",):
            raise UserError(
                f"{name_or_design} cannot run its last stage on regions; use a regnetx, regnety or "
                "regnetv, or MODEL.REGNET.OUTPUT_STRIDE 16 with 'StandardROIHeads' (DC5)"
            )
        self.s4 = network.s4
        self.pruned_parts = ("stem", "s1", "s2", "s3")  # of a file of the whole network
        self.out_channels = network.channels[5]
        self.stage_of = network.name or network.design
        self.activated_norms = activated_norms(self)

    def train(self, mode: bool = True) -> "RegNetLastStage":
        """Set the mode; restore lost activations, or raise, as `RegNetFeatures.train` does."""
        restore_activations(self)
        return super().train(mode)

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


@META_ARCH_REGISTRY.register()
class FCOSDetector(FCOS):
    """Detectron2's `FCOS`, with its `arguments`, which can also be built from a config.

    The keys of `MODEL.FCOS` are AdelaiDet's names for the arguments. The model is detectron2's: its
    head has no learned scales, and divides distances by the stride.
    """

    @configurable
    def __init__(self, **arguments: object):
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        """Return the arguments of the model of a config.

        Args:
            cfg: of which `MODEL.FCOS` is read; keys that it lacks have our defaults.

        Raises:
            ValueError: `MODEL.FCOS.IN_FEATURES` are not all maps of the backbone.
        """
        node = fcos_node(cfg)
        backbone = build_backbone(cfg)
        shapes, features = backbone.output_shape(), list(node.IN_FEATURES)
        if not set(features) <= set(shapes):
            raise UserError(
                f"MODEL.FCOS.IN_FEATURES must be among {', '.join(shapes)}, got {features}; "
                "MODEL.FCOS.TOP_LEVELS adds maps above P5"
            )
        head = FCOSHead(
            input_shape=[shapes[name] for name in features],
            num_classes=node.NUM_CLASSES,
            conv_dims=[shapes[features[0]].channels] * node.NUM_CONVS,
            norm=node.NORM,
            prior_prob=node.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": features,
            "num_classes": node.NUM_CLASSES,
            "center_sampling_radius": node.POS_RADIUS,
            "focal_loss_alpha": node.LOSS_ALPHA,
            "focal_loss_gamma": node.LOSS_GAMMA,
            "test_score_thresh": node.INFERENCE_TH_TEST,
            "test_topk_candidates": node.PRE_NMS_TOPK_TEST,
            "test_nms_thresh": node.NMS_TH,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }
