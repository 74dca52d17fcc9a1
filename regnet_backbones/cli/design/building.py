"""A design built at once in each framework that is installed, and looked at.

Frameworks are imported when they are asked for: nothing else in this package needs them. What is
printed is what is built: configs are read, code is run, as they stand.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec

from regnet_backbones.design.anynet import Design
from regnet_backbones.design.formats import FORMATS, check_is_regnet, to_format

# Large enough for every stride, small enough to take no time.
IMAGE_SIZE = 64

ENCODER = "regnet_of_this_command"

MODULES = {"detectron2": "detectron2", "smp": "segmentation_models_pytorch", "timm": "timm"}


def build(design: Design, name: str) -> str:
    """Build a design as a format says it, run it on an image, and describe what came out.

    Args:
        design: the network.
        name: one of `FORMATS`.

    Returns:
        A line that says so, or that the framework is not installed.

    Raises:
        ValueError: the framework cannot build it; the message says why.
    """
    if find_spec(MODULES[name]) is None:
        return f"{name}: not installed"
    check_buildable(design)
    network, described = BUILDERS[name](to_format(name, design, title=ENCODER))
    params = sum(parameter.numel() for parameter in network.parameters())
    return f"{name}: built, {params:,} parameters, {described}"


def check_buildable(design: Design) -> None:
    """Check what all of them have in common: timm builds the stages, from the law of a RegNet.

    Raises:
        ValueError: the design is no RegNet, or timm would build other stages.
    """
    regnet = check_is_regnet(design)
    from regnet_backbones.backbone import RegNetFeatures

    RegNetFeatures(regnet)


def _build_detectron2(text: str) -> tuple[object, str]:
    """Build the backbone with FPN that a config says."""
    import torch
    import yaml
    from detectron2.config import CfgNode, get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(text)))
    backbone = build_backbone(cfg).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    return backbone, f"{cfg.MODEL.BACKBONE.NAME}, maps {_shapes(maps)}"


def _build_smp(code: str) -> tuple[object, str]:
    """Build the U-Net that code says."""
    import torch
    from segmentation_models_pytorch import encoders

    encoders.encoders.pop(ENCODER, None)
    names: dict[str, object] = {}
    try:
        exec(code, names)
    finally:
        encoders.encoders.pop(ENCODER, None)
    model = names["model"].eval()
    with torch.no_grad():
        maps = model.encoder(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    return model, f"U-Net, maps {_shapes(dict(enumerate(maps)))}"


def _build_timm(code: str) -> tuple[object, str]:
    """Build the classifier that code says."""
    import torch

    names: dict[str, object] = {}
    exec(code, names)
    model = names["model"].eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    return model, f"classifier, {logits.shape[1]} logits"


def _shapes(maps: Mapping[object, object]) -> str:
    """Name maps with channels, height and width."""
    return ", ".join(f"{name} {'x'.join(map(str, m.shape[1:]))}" for name, m in maps.items())


BUILDERS: dict[str, Callable[[str], tuple[object, str]]] = dict(
    zip(FORMATS, (_build_detectron2, _build_smp, _build_timm), strict=True)
)
