"""Config keys that our detection trainer adds to detectron2's.

They are not part of `get_cfg()` elsewhere: detectron2's own trainer would ignore them, and a config
that asks for AdamW must not be trained with SGD in silence.
"""

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from regnet_backbones.adapters.detectron2_config import add_regnet_config

OPTIMIZERS = ("SGD", "ADAMW")


def get_cfg() -> CfgNode:
    """Return detectron2's default config with `MODEL.REGNET` and the keys of our trainer."""
    cfg = get_detectron2_cfg()
    add_regnet_config(cfg)
    add_training_config(cfg)
    return cfg


def add_training_config(cfg: CfgNode) -> None:
    """Add the keys of our trainer to a config."""
    # One of OPTIMIZERS; SGD is detectron2's own.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # How many val images are drawn with their predictions at every evaluation; 0 for none.
    cfg.TEST.PICTURES = 16
    # Instances below this score are not drawn.
    cfg.TEST.PICTURES_MIN_SCORE = 0.5
