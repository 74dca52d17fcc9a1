"""What each of detectron2's meta-architectures gives, learns from and reads: one table.

An architecture of somebody else's project is `OTHER`: it may give anything.
"""

from dataclasses import dataclass
from operator import attrgetter

from detectron2.config import CfgNode

# What a model may return for an image, by detectron2's names; proposals count as instances.
OUTPUTS = ("sem_seg", "instances", "panoptic_seg")


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


ARCHITECTURES: dict[str, Architecture] = {
    "GeneralizedRCNN": Architecture(
        ("instances",), "MODEL.ROI_HEADS.NUM_CLASSES", ("RPN", "ROI_HEADS")
    ),
    "ProposalNetwork": Architecture(("instances",), nodes=("RPN",)),
    "RetinaNet": Architecture(("instances",), "MODEL.RETINANET.NUM_CLASSES", ("RETINANET",)),
    "FCOSDetector": Architecture(("instances",), "MODEL.FCOS.NUM_CLASSES", ("FCOS",)),
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


def title_of(cfg: CfgNode) -> str:
    """Name the architecture of a config, as people call it."""
    model = cfg.MODEL
    if model.META_ARCHITECTURE != "GeneralizedRCNN":
        return model.META_ARCHITECTURE
    kind = "Mask" if model.MASK_ON else "Keypoint" if model.KEYPOINT_ON else "Faster"
    return f"{'Cascade ' * ('Cascade' in model.ROI_HEADS.NAME)}{kind} R-CNN"
