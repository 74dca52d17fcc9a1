"""`RegNetFeaturesConfig`, which is light: torch is imported when the first config is made."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Literal

from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError

STAGE_NAMES = ["stem", "stage1", "stage2", "stage3", "stage4"]

_NUMBERS = [field.name for field in fields(RegNetDesign)]


class RegNetFeaturesConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of a `RegNetFeaturesBackbone`.

    It says which network, and says nothing of its weights: `regnet_backbones.weights.load` puts
    those of any project into a model that was built from it.

    Args:
        name: a name of `regnet_backbones.zoo.names()`, None for a design.
        design: a `RegNetDesign`, or its numbers by name. They may be given without it, too:
            `RegNetFeaturesConfig(w_0=24, w_a=36.44, w_m=2.49, depth=13, group_width=8)`.
        out_indices: which of stem (0) and stage1 to stage4 (1 to 4, C2 to C5) are returned.
        out_features: the same by name, in place of `out_indices`.
        num_channels: of the images.
        output_stride, norm, freeze_at, drop_path_rate: see `RegNetFeatures`. `norm="BN"` stays
            trainable in models that freeze every `nn.BatchNorm2d`, such as DETR.
        kwargs: of `PreTrainedConfig`.

    Raises:
        ValueError: no such network or stages, or more than one of name, design and numbers. A
            config with none of these raises when a model is built from it.
    """

    model_type = "regnet_features"

    def __init__(
        self,
        name: str | None = None,
        *,
        design: RegNetDesign | Mapping[str, object] | None = None,
        out_indices: Sequence[int] | None = None,
        out_features: Sequence[str] | None = None,
        num_channels: int = 3,
        output_stride: Literal[8, 16, 32] = 32,
        norm: Literal["BN", "SyncBN", "FrozenBN", "GN"] = "FrozenBN",
        freeze_at: int = 2,
        drop_path_rate: float = 0.0,
        **kwargs: object,
    ):
        numbers = {key: kwargs.pop(key) for key in _NUMBERS if key in kwargs}
        if isinstance(design, RegNetDesign):
            design = asdict(design)
        if sum(map(bool, (name, design, numbers))) > 1:
            raise UserError("pass only one of name, design and the numbers of one, got several")
        self.name = zoo.get(name).name if name else None
        # Made whole, so that the file of a config says all of it.
        self.design = asdict(RegNetDesign(**(design or numbers))) if design or numbers else None
        self.num_channels = num_channels
        self.output_stride = output_stride
        self.norm = norm
        self.freeze_at = freeze_at
        self.drop_path_rate = drop_path_rate
        self.stage_names = STAGE_NAMES
        if out_indices is None and out_features is None:
            out_indices = (2, 3, 4)
        self.set_output_features_output_indices(
            out_features=None if out_features is None else list(out_features),
            out_indices=None if out_indices is None else list(out_indices),
        )
        super().__init__(**{k: v for k, v in kwargs.items() if k != "stage_names"})
        # `AutoBackbone` builds what a config says; only who has one pays the import.
        from transformers import AutoBackbone

        from regnet_backbones.adapters.transformers.modeling import RegNetFeaturesBackbone

        AutoBackbone.register(RegNetFeaturesConfig, RegNetFeaturesBackbone, exist_ok=True)

    @property
    def network(self) -> str | RegNetDesign:
        """The network, as `RegNetFeatures` takes it."""
        if self.design:
            return RegNetDesign(**self.design)
        if self.name is None:
            raise UserError("the config has no network; pass name, such as 'regnety_032'")
        return self.name
