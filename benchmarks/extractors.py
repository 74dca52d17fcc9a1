"""Extractors of C2 to C5: ours, and those of other projects, with our weights where they fit.

A peer's weights are ours, renamed, so that its maps show that it is the same network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.cases import Case
from regnet_backbones import zoo
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design import RegNetDesign
from regnet_backbones.norm import convert_norm
from regnet_backbones.weights import convert

RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
REGNET_LAYERS = tuple(f"trunk_output.block{i}" for i in range(1, 5))
STAGES = ("s1", "s2", "s3", "s4")


@dataclass(frozen=True)
class Peer:
    """An extractor of another project.

    Attributes:
        family: its name in rows.
        needs: the module that must be installed.
        network: builds it for a variant; the last four maps it gives are C2 to C5.
        why_not: returns why a variant has none, None if it has one.
        dialect: what it calls its weights, None for another network.
        prefix: of those names.
    """

    family: str
    needs: str
    network: Callable[[zoo.Variant], nn.Module]
    why_not: Callable[[zoo.Variant], str | None]
    dialect: str | None
    prefix: str = ""

    def build(self, case: Case) -> nn.Module:
        """Return the extractor of a case: with our weights, and frozen norms for training."""
        network = self.network(zoo.get(case.variant))
        if self.dialect is not None:
            load_ours(network, case.variant, self.dialect, self.prefix)
        return convert_norm(network, "FrozenBN") if case.training else network


def ours(case: Case) -> nn.Module:
    """Return our extractor of a case, with frozen norms for training."""
    network = our_network(case.variant)
    return convert_norm(network, "FrozenBN") if case.training else network


def our_network(variant: str) -> RegNetFeatures:
    """Return our extractor with weights that are random, and always the same.

    timm begins with the last norm of each block at zero: statistics and scales are random, too, or
    branches would not show in the maps.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = RegNetFeatures(variant)
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                tensor.uniform_(-0.2, 0.2)
            elif tensor.ndim == 1:
                tensor.uniform_(0.5, 1.0)
    return network


def load_ours(network: nn.Module, variant: str, dialect: str, prefix: str = "") -> None:
    """Give a peer's network our weights."""
    # All networks see the same images: where dialects differ in channel order, nothing is flipped.
    order = "BGR" if dialect == "pycls" else "RGB"
    state = convert(our_network(variant).state_dict(), "timm", dialect, channel_order=order)
    network.load_state_dict({prefix + name: tensor for name, tensor in state.items()})


def detectron2s_regnet(
    design: RegNetDesign,
    *,
    norm: str = "BN",
    freeze_at: int = 0,
    out_features: Sequence[str] = STAGES,
) -> nn.Module:
    """Return detectron2's own RegNet of a design."""
    from detectron2.modeling.backbone import regnet

    return regnet.RegNet(
        stem_class=regnet.SimpleStem,
        stem_width=design.stem_width,
        block_class=regnet.ResBottleneckBlock,
        depth=design.depth,
        w_a=design.w_a,
        w_0=design.w_0,
        w_m=design.w_m,
        group_width=design.group_width,
        se_ratio=design.se_ratio,
        norm=norm,
        freeze_at=freeze_at,
        out_features=list(out_features),
    )


def not_in_detectron2(variant: zoo.Variant) -> str | None:
    """Say why detectron2's own RegNet cannot be a variant."""
    if variant.paper_name is None or variant.design is None:
        return f"detectron2's own RegNet cannot be {variant.name}, only a RegNetX or Y of the paper"
    return None


def _not_in_torchvision(variant: zoo.Variant) -> str | None:
    """Say why torchvision has no such variant."""
    return None if variant.torchvision_name else f"torchvision has no {variant.name}"


def _always(variant: zoo.Variant) -> None:
    """There is one for every variant."""


def timms(name: str) -> nn.Module:
    """Build timm's extractor of C2 to C5."""
    import timm

    return timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4))


def _torchvisions(model: str, layers: tuple[str, ...]) -> nn.Module:
    """Build torchvision's extractor of some layers of a model."""
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(get_model(model, weights=None), list(layers))


def _smps(variant: zoo.Variant) -> nn.Module:
    """Build SMP's encoder; it also returns the images and C1, which it has anyway."""
    from segmentation_models_pytorch.encoders import get_encoder

    return get_encoder(f"tu-{variant.name}", weights=None, depth=5)


PEERS = (
    Peer("timm", "timm", lambda variant: timms(variant.name), _always, "timm_features"),
    Peer(
        "torchvision",
        "torchvision",
        lambda variant: _torchvisions(variant.torchvision_name, REGNET_LAYERS),
        _not_in_torchvision,
        "torchvision",
    ),
    Peer(
        "detectron2",
        "detectron2",
        lambda variant: detectron2s_regnet(variant.design),
        not_in_detectron2,
        "pycls",
    ),
    Peer("SMP", "segmentation_models_pytorch", _smps, _always, "timm_features", "model."),
    Peer(
        "ResNet-50",
        "torchvision",
        lambda variant: _torchvisions("resnet50", RESNET_LAYERS),
        _always,
        None,
    ),
)
