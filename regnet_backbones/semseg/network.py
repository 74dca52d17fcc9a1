"""What a segmenter is made of: a model of SMP, its loss, and the learning rates of its parameters.

Rates follow DeepLab's "poly" decay (arXiv 1606.00915, section 4.1) or half a cosine (arXiv
1608.03983), after a linear warm-up.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.losses import (
    MULTICLASS_MODE,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    TverskyLoss,
)
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from regnet_backbones.adapters.smp.auxiliary import WithAuxiliaryHead
from regnet_backbones.adapters.smp.encoder import RegNetEncoder, design_name
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError, as_user_error
from regnet_backbones.semseg.labels import IGNORE

LOSSES = ("ce", "dice", "focal", "lovasz", "tversky")
WEIGHTED = {"ce", "focal"}  # those that take class weights

Schedule = Literal["poly", "cosine"]

# What `decoder_options` cannot set: `Segmenter` does, or the logits would be something else.
RESERVED_OPTIONS = {
    *("encoder_name", "encoder_weights", "classes", "in_channels"),
    *("activation", "aux_params", "kwargs"),
}


def architectures() -> dict[str, type[SegmentationModel]]:
    """Return the architectures of the installed SMP by name, ours among them."""
    classes = {name: value for name, value in vars(smp).items() if inspect.isclass(value)}
    return {name: value for name, value in classes.items() if issubclass(value, SegmentationModel)}


def build_network(
    decoder: str,
    encoder: str | Mapping[str, object],
    num_classes: int,
    *,
    encoder_weights: str | None = None,
    output_stride: int | None = None,
    options: Mapping[str, object] | None = None,
    in_channels: int = 3,
    auxiliary_weight: float | None = None,
) -> SegmentationModel:
    """Build a model of SMP that gives `num_classes` logits; arguments as of `Segmenter`."""
    known = {name.lower(): value for name, value in architectures().items()}
    if decoder.lower() not in known:
        raise UserError(f"decoder must be one of {', '.join(sorted(known))}, got '{decoder}'")
    architecture, options = known[decoder.lower()], dict(options or {})
    name = architecture.__name__
    if output_stride is not None:
        options["encoder_output_stride"] = output_stride
    # SMP's architectures accept unknown arguments, and ignore them.
    taken = inspect.signature(architecture).parameters.keys() - RESERVED_OPTIONS
    if unknown := sorted(options.keys() - taken):
        raise UserError(f"{name} has no {', '.join(unknown)}; it has {', '.join(sorted(taken))}")
    # SMP's and timm's, of encoders, their weights, and values that the architecture does not take.
    errors = (KeyError, RuntimeError, TypeError, ValueError)
    with as_user_error(*errors, prefix=f"{name} on {encoder} with {options}: "):
        if not isinstance(encoder, str):
            design = RegNetDesign(**encoder)
            encoder = design_name(design)
        network = architecture(
            encoder_name=encoder,
            encoder_weights=encoder_weights,
            in_channels=in_channels,
            classes=num_classes,
            **options,
        )
        if auxiliary_weight is None:
            return network
        return WithAuxiliaryHead(network, weight=auxiliary_weight)


def check_statistics(
    encoder: str, encoder_weights: str, *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Raise UserError where images are not normalised as a RegNet's weights by name expect.

    Grey images have the mean over the channels, as their stem has the sum of the weights.
    """
    settings = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings") or {}
    expected = settings.get(encoder_weights, {})
    for name, value in {"mean": mean, "std": std}.items():
        wanted = [*map(float, expected.get(name, value))]
        wanted = [round(fmean(wanted), 4)] if len(value) == 1 else wanted
        if math.dist(value, wanted) > 1e-3:
            weights = f"weights '{encoder_weights}' of '{encoder}'"
            raise UserError(f"{weights} need --data.{name} {wanted}, got {list(value)}")


def start_branches_at_one(encoder: nn.Module) -> None:
    """Set the weights of norms that are all zero to one: of the last in each residual block.

    pycls, the paper's code, does not zero them as timm does; short trainings get further its way.
    """
    for module in encoder.modules():
        is_norm = isinstance(module, (_BatchNorm, nn.GroupNorm)) and module.affine
        if is_norm and not module.weight.any():
            nn.init.ones_(module.weight)


class SegmentationLoss(nn.Module):
    """Loss of the labelled pixels of a batch: cross entropy, one of SMP's losses, or a sum.

    In training with several processes, cross entropy and focal loss are means over the pixels of
    all. Auxiliary outputs, see `adapters.smp.auxiliary`, add the same loss by their weights.
    """

    def __init__(
        self,
        name: str,
        auxiliary_weights: Sequence[float] = (),
        *,
        tversky: tuple[float, float] = (0.3, 0.7),
    ):
        super().__init__()
        self.parts = name.split("+")
        if not set(self.parts) <= set(LOSSES) or len(set(self.parts)) < len(self.parts):
            names = f"one of {', '.join(LOSSES)}, or different ones joined by '+'"
            raise UserError(f"loss must be {names}, got {name!r}")
        self.weights = (1.0, *auxiliary_weights)
        self.class_weights: Sequence[float] | None = None
        alpha, beta = tversky
        self.dice = DiceLoss(MULTICLASS_MODE, from_logits=True, ignore_index=IGNORE)
        self.tversky = TverskyLoss(MULTICLASS_MODE, ignore_index=IGNORE, alpha=alpha, beta=beta)
        self.focal = FocalLoss(MULTICLASS_MODE, reduction="sum", ignore_index=IGNORE)
        self.lovasz = LovaszLoss(MULTICLASS_MODE, ignore_index=IGNORE)

    def set_class_weights(self, weights: Sequence[float], num_classes: int) -> None:
        """Weight the classes in cross entropy and focal loss; raise UserError if that is wrong."""
        if not WEIGHTED & set(self.parts):
            parts, given = " or ".join(sorted(WEIGHTED)), "+".join(self.parts)
            raise UserError(f"class_weights need the loss {parts}, got {given!r}")
        if "focal" in self.parts and not hasattr(self.focal, "class_weights"):
            raise UserError("class_weights of the focal loss need segmentation-models-pytorch>=0.6")
        positive = all(0 <= weight < math.inf for weight in weights) and any(weights)
        if len(weights) != num_classes or not positive:
            wanted = f"{num_classes} numbers from 0 on, one per class, or 'balanced'"
            raise UserError(f"class_weights must be {wanted}, got {list(weights)}")
        self.class_weights = list(weights)

    def forward(
        self, outputs: torch.Tensor | Sequence[torch.Tensor], mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of a network's outputs and a mask (N, H, W) in float32.

        Logits are (N, classes, H, W); or (N, 2, 1, 1), of an image without and with an object.
        """
        if isinstance(outputs, torch.Tensor):
            outputs = [outputs]
        pairs = zip(self.weights, outputs, strict=False)  # in evaluation there is one output
        return sum(weight * self._of(logits.float(), mask) for weight, logits in pairs)

    def _of(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the loss of one output."""
        if logits.shape[-2:] != mask.shape[-2:]:
            return self._cross_entropy(logits, _has_object(mask))
        own = {"ce": self._cross_entropy, "focal": self._focal}
        losses = [own.get(part) or getattr(self, part) for part in self.parts]
        return sum(loss(logits, mask).sum() for loss in losses)  # of no pixels, Lovász is empty

    def _cross_entropy(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean over the labelled pixels; 0 if there are none."""
        weights = None
        if self.class_weights is not None and logits.shape[-2:] == mask.shape[-2:]:
            weights = logits.new_tensor(self.class_weights)
        options = {"ignore_index": IGNORE, "reduction": "sum"}
        return F.cross_entropy(logits, mask, weights, **options) / self._labelled(mask, weights)

    def _focal(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the mean over classes, by their weights, and labelled pixels; 0 without any."""
        given = self.class_weights
        self.focal.class_weights = None if given is None else logits.new_tensor(given)
        return self.focal(logits, mask) / self._labelled(mask)

    def _labelled(self, mask: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the number of labelled pixels, at least 1, or the sum of their weights.

        In training it is the mean over the processes, as gradients are.
        """
        labelled, least, processes = mask != IGNORE, 1.0, 1
        if weights is not None:
            labelled, least = labelled * weights[mask.where(labelled, 0)], 1e-9
        count = labelled.sum()
        if self.training and distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(count)
            processes = distributed.get_world_size()
        return count.clamp(min=least) / processes


def _has_object(mask: torch.Tensor) -> torch.Tensor:
    """Return 1 for masks with another class than 0, 255 for those without labels, (N, 1, 1)."""
    largest = mask.masked_fill(mask == IGNORE, -1).amax(dim=(1, 2), keepdim=True).clamp(max=1)
    return largest.masked_fill(largest < 0, IGNORE)


def parameter_groups(
    network: nn.Module,
    *,
    lr: float,
    encoder_lr_factor: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[dict[str, object]]:
    """Return the trained parameters by part and decay, which norms and biases do not have."""
    rate = encoder_lr_factor * lr
    parts = {"encoder": (("encoder.",), rate), "decoder": (("",), lr)}
    if layer_decay != 1:
        encoder = regnet_of(network, "layer_decay")
        parts = {
            f"encoder/c{level}": (
                tuple(f"encoder.{part}." for part in encoder.level_parts[level]),
                rate * layer_decay ** (len(encoder.out_levels) + 1 - level),
            )
            for level in encoder.out_levels
        } | {"decoder": parts["decoder"]}
    left = {name: p for name, p in network.named_parameters() if p.requires_grad}
    groups = []
    for part, (names, rate) in parts.items():
        of_part = [left.pop(name) for name in list(left) if name.startswith(names)]
        for name, decay in ((f"{part}/no_decay", 0.0), (part, weight_decay)):
            params = [p for p in of_part if (p.ndim > 1) == (name == part)]
            groups.append({"name": name, "lr": rate, "weight_decay": decay, "params": params})
    return [group for group in groups if group["params"]]


def regnet_of(network: nn.Module, option: str) -> RegNetEncoder:
    """Return the encoder of a network, or raise UserError if it is not a RegNet of ours."""
    if not isinstance(network.encoder, RegNetEncoder):
        kind = type(network.encoder).__name__
        raise UserError(f"{option} needs a RegNet, such as 'regnety_032', as encoder, got {kind}")
    return network.encoder


def schedule_of(
    optimizer: Optimizer, name: Schedule, *, total_steps: float, warmup_steps: int, power: float
) -> LambdaLR:
    """Return the schedule of a run by steps; each parameter group has its own rate as the peak."""
    if not 1 <= total_steps < math.inf:
        text = "set --trainer.max_steps or --trainer.max_epochs"
        raise UserError(f"the learning rate cannot decay over {total_steps} steps; {text}")
    return LambdaLR(
        optimizer, lambda step: rate_factor(step, total_steps, warmup_steps, power, name)
    )


def rate_factor(step: int, total: float, warmup: int, power: float, name: Schedule) -> float:
    """Return the rate of a step (from 0) as a part of the peak: 1 at `warmup`, 0 from `total`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if step >= total:
        return 0.0
    part = (step - warmup) / (total - warmup)
    return (1 + math.cos(math.pi * part)) / 2 if name == "cosine" else (1 - part) ** power
