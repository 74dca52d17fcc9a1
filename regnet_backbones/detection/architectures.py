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
    """A row of `ARCHITECTURES`.

    Attributes:
        outputs: which of `OUTPUTS` it gives.
        classes: key of the number of its classes; "" where no key says it.
        nodes: those of its heads in `MODEL`.
        instances_suffice: a COCO instance json has all that it learns.
        learns_semantics: it is trained on the masks of `sem_seg_file_name`.
        one_numbering: things and stuff are numbered in one row, and the training dataset says which
            is which.
        mapper: "module:name" of a function that makes its training mapper of a config; "" for
            detectron2's `DatasetMapper`.
        crops_resized: training images are resized first and cropped then.
    """

    outputs: tuple[str, ...]
    classes: str = ""
    nodes: tuple[str, ...] = ()
    instances_suffice: bool = True
    learns_semantics: bool = False
    one_numbering: bool = False
    mapper: str = ""
    crops_resized: bool = False


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
        instances_suffice=False,
        learns_semantics=True,
        mapper="regnet_backbones.detection.training.loader:segmenter_train_mapper",
        crops_resized=True,
    ),
    "PanopticFPN": Architecture(
        OUTPUTS,
        "MODEL.ROI_HEADS.NUM_CLASSES",
        ("RPN", "ROI_HEADS", "SEM_SEG_HEAD"),
        instances_suffice=False,
        learns_semantics=True,
    ),
    "PanopticDeepLab": Architecture(
        OUTPUTS,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        ("SEM_SEG_HEAD", "INS_EMBED_HEAD"),
        instances_suffice=False,
        one_numbering=True,
        mapper="detectron2.projects.panoptic_deeplab:PanopticDeeplabDatasetMapper",
        crops_resized=True,
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
    """Return the number of classes that a model predicts instances of; of `one_numbering`, of all.

    Of an architecture that has no key for it, that of `MODEL.ROI_HEADS`.
    """
    return attrgetter(architecture_of(cfg).classes or "MODEL.ROI_HEADS.NUM_CLASSES")(cfg)


def title_of(cfg: CfgNode) -> str:
    """Name the architecture of a config, as people call it."""
    model = cfg.MODEL
    if model.META_ARCHITECTURE != "GeneralizedRCNN":
        return model.META_ARCHITECTURE
    kind = "Mask" if model.MASK_ON else "Keypoint" if model.KEYPOINT_ON else "Faster"
    return f"{'Cascade ' * ('Cascade' in model.ROI_HEADS.NAME)}{kind} R-CNN"
