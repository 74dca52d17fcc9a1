"""What each of detectron2's meta-architectures gives, learns from and reads: one table.

An architecture of somebody else's project is `OTHER`: it may give anything.
"""

from dataclasses import dataclass
from operator import attrgetter

from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY

# What a model may return for an image, by detectron2's names; proposals count as instances.
OUTPUTS = ("sem_seg", "instances", "panoptic_seg")

# Half precision rounds a threshold by less than this, and detectron2 drops a score equal to it.
BELOW = 0.99

ROI_SCORE = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
COMBINED_SCORE = "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"


@dataclass(frozen=True)
class Architecture:
    """A row of `ARCHITECTURES`."""

    outputs: tuple[str, ...]  # which of `OUTPUTS` it gives
    classes: str = ""  # key of the number of its classes, if there is one
    nodes: tuple[str, ...] = ()  # those of its heads in `MODEL`
    learns_semantics: bool = False  # it is trained on the masks of `sem_seg_file_name`
    # Things and stuff are numbered in one row, and the training dataset says which is which.
    one_numbering: bool = False
    # "module:name" of what makes its training mapper of a config, instead of `DatasetMapper`.
    mapper: str = ""
    # Key of the score above which it gives instances, before it suppresses those that overlap.
    min_score: str = ""
    combined_score: str = ""  # key of the score from which instances are combined with stuff


ARCHITECTURES: dict[str, Architecture] = {
    "GeneralizedRCNN": Architecture(
        ("instances",), "MODEL.ROI_HEADS.NUM_CLASSES", ("RPN", "ROI_HEADS"), min_score=ROI_SCORE
    ),
    "ProposalNetwork": Architecture(("instances",), nodes=("RPN",)),
    "RetinaNet": Architecture(
        ("instances",),
        "MODEL.RETINANET.NUM_CLASSES",
        ("RETINANET",),
        min_score="MODEL.RETINANET.SCORE_THRESH_TEST",
    ),
    "FCOSDetector": Architecture(
        ("instances",),
        "MODEL.FCOS.NUM_CLASSES",
        ("FCOS",),
        min_score="MODEL.FCOS.INFERENCE_TH_TEST",
    ),
    "SemanticSegmentor": Architecture(
        ("sem_seg",),
        nodes=("SEM_SEG_HEAD",),
        learns_semantics=True,
        mapper="regnet_backbones.detection.training.loader:segmenter_train_mapper",
    ),
    "PanopticFPN": Architecture(
        OUTPUTS,
        "MODEL.ROI_HEADS.NUM_CLASSES",
        ("RPN", "ROI_HEADS", "SEM_SEG_HEAD"),
        learns_semantics=True,
        min_score=ROI_SCORE,
        combined_score=COMBINED_SCORE,
    ),
    "PanopticDeepLab": Architecture(
        OUTPUTS,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        ("SEM_SEG_HEAD", "INS_EMBED_HEAD"),
        one_numbering=True,
        mapper="detectron2.projects.panoptic_deeplab:PanopticDeeplabDatasetMapper",
    ),
}
OTHER = Architecture(OUTPUTS)


def architecture_of(cfg: CfgNode) -> Architecture:
    """Return the row of a config's `MODEL.META_ARCHITECTURE`."""
    return ARCHITECTURES.get(cfg.MODEL.META_ARCHITECTURE, OTHER)


def outputs_of(cfg: CfgNode) -> tuple[str, ...]:
    """Return which of `OUTPUTS` the model of a config gives."""
    given = architecture_of(cfg).outputs
    if cfg.MODEL.META_ARCHITECTURE == "PanopticDeepLab" and (
        not cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES
    ):
        return tuple(output for output in given if output != "instances")
    return given


def number_of_classes(cfg: CfgNode) -> int:
    """Return the number of classes of a model's instances; of `one_numbering`, of all."""
    return attrgetter(architecture_of(cfg).classes or "MODEL.ROI_HEADS.NUM_CLASSES")(cfg)


def raise_score_threshold(cfg: CfgNode, min_score: float) -> None:
    """Have a model compute no instances below a score, in place; those above it stay the same.

    A box is only suppressed by one with a higher score, and of too many the highest are kept.
    Nothing changes for heads of other projects and with test-time augmentation.
    """
    architecture = architecture_of(cfg)
    if not architecture.min_score or cfg.TEST.AUG.ENABLED:
        return
    if architecture.min_score == ROI_SCORE:
        heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
        if not heads.__module__.startswith(("detectron2.", "regnet_backbones.")):
            return  # it may score instances several times
    if architecture.combined_score:
        min_score = min(min_score, attrgetter(architecture.combined_score)(cfg))
    node, _, key = architecture.min_score.rpartition(".")
    node = attrgetter(node)(cfg)
    node[key] = max(node[key], BELOW * min_score)


def title_of(cfg: CfgNode) -> str:
    """Name the architecture of a config, as people call it."""
    model = cfg.MODEL
    if model.META_ARCHITECTURE != "GeneralizedRCNN":
        return model.META_ARCHITECTURE
    kind = "Mask" if model.MASK_ON else "Keypoint" if model.KEYPOINT_ON else "Faster"
    return f"{'Cascade ' * ('Cascade' in model.ROI_HEADS.NAME)}{kind} R-CNN"
