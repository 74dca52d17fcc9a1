"""FCOS from a YAML config: detectron2 has the model, but for its Python configs only."""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead

from regnet_backbones.adapters.detectron2.config import fcos_node
from regnet_backbones.errors import UserError


@META_ARCH_REGISTRY.register()
class FCOSDetector(FCOS):
    """Detectron2's `FCOS` (`modeling/meta_arch/fcos.py`, arXiv 1904.01355), built from a config.

    The keys of `MODEL.FCOS` are AdelaiDet's names for the arguments. The model is detectron2's:
    its head has no learned scales, and divides distances by the stride.

    Args:
        backbone: its maps `in_features` are detected on.
        in_features: names of maps, from fine to coarse.
        num_classes: without background.
        num_convs: of each of the two branches of the head, as wide as the maps.
        norm: of these, such as "GN" or "".
        prior_prob: score of a location before training.
        center_sampling_radius: the part of a box around its centre whose locations are positive,
            in strides.
        focal_loss_alpha, focal_loss_gamma: of the loss of classes.
        test_score_thresh: detections below it are dropped, of sqrt(class score * centerness).
        test_topk_candidates: of each level, before non-maximum suppression.
        test_nms_thresh: IoU of boxes of which one is dropped.
        max_detections_per_image: at most, of the best.
        pixel_mean, pixel_std: of each channel of an image.

    Raises:
        ValueError: `in_features` are not all maps of the backbone.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        num_classes: int,
        num_convs: int,
        norm: str,
        prior_prob: float,
        center_sampling_radius: float,
        focal_loss_alpha: float,
        focal_loss_gamma: float,
        test_score_thresh: float,
        test_topk_candidates: int,
        test_nms_thresh: float,
        max_detections_per_image: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ):
        shapes = backbone.output_shape()
        absent = [name for name in in_features if name not in shapes]
        if absent:
            raise UserError(
                f"MODEL.FCOS.IN_FEATURES must be of the backbone's maps {', '.join(shapes)}, got "
                f"{list(in_features)}; MODEL.FCOS.TOP_LEVELS says how many there are above P5"
            )
        head = FCOSHead(
            input_shape=[shapes[name] for name in in_features],
            num_classes=num_classes,
            conv_dims=[shapes[in_features[0]].channels] * num_convs,
            norm=norm,
            prior_prob=prior_prob,
        )
        super().__init__(
            backbone=backbone,
            head=head,
            head_in_features=list(in_features),
            num_classes=num_classes,
            center_sampling_radius=center_sampling_radius,
            focal_loss_alpha=focal_loss_alpha,
            focal_loss_gamma=focal_loss_gamma,
            test_score_thresh=test_score_thresh,
            test_topk_candidates=test_topk_candidates,
            test_nms_thresh=test_nms_thresh,
            max_detections_per_image=max_detections_per_image,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        """Return the arguments of the model of a config.

        Args:
            cfg: of which `MODEL.FCOS` is read; keys that it lacks have our defaults.
        """
        node = fcos_node(cfg)
        return {
            "backbone": build_backbone(cfg),
            "in_features": node.IN_FEATURES,
            "num_classes": node.NUM_CLASSES,
            "num_convs": node.NUM_CONVS,
            "norm": node.NORM,
            "prior_prob": node.PRIOR_PROB,
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
