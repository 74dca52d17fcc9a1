"""`RegNetFeaturesBackbone`: a `RegNetFeatures` by the contract of transformers' `AutoBackbone`.

The contract is `transformers/backbone_utils.py`. transformers' DETR family exchanges each
`nn.BatchNorm2d` of a backbone for a frozen one without an activation (`replace_batch_norm`), timm's
norms with an activation among them; here it finds none.
"""

import torch
from transformers import initialization
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.modeling_utils import PreTrainedModel

from regnet_backbones.adapters.transformers.configuration import STAGE_NAMES, RegNetFeaturesConfig
from regnet_backbones.backbone import LEVELS, RegNetFeatures
from regnet_backbones.norm import hide_batch_norms


class RegNetFeaturesBackbone(BackboneMixin, PreTrainedModel):
    """A RegNet by a `config`, as a backbone of transformers' detectors and segmenters.

    `features` is the `RegNetFeatures`, with the stages up to the last of `config.out_indices`.
    """

    config_class = RegNetFeaturesConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    has_attentions = False
    supports_gradient_checkpointing = True

    def __init__(self, config: RegNetFeaturesConfig):
        super().__init__(config)
        self.features = _extractor(config)
        self._is_built_empty = next(self.features.parameters()).is_meta
        hide_batch_norms(self.features)
        self.num_features = self.features.feature_info.channels(list(range(len(LEVELS))))
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: object,
    ) -> BackboneOutput | tuple:
        """Return the maps of `config.out_features` of RGB `pixel_values` (N, num_channels, H, W).

        With `output_hidden_states` also those of all stages. There are no `output_attentions`. With
        `return_dict` False a tuple in place of a `BackboneOutput`. `kwargs` are ignored, as by
        transformers' own convolutional backbones.
        """
        maps = dict(zip(STAGE_NAMES, self.features(pixel_values), strict=False))
        feature_maps = tuple(maps[name] for name in self.out_features)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = tuple(maps.values()) if output_hidden_states else None
        if return_dict is False or (return_dict is None and not self.config.return_dict):
            return (feature_maps, hidden_states) if output_hidden_states else (feature_maps,)
        return BackboneOutput(feature_maps=feature_maps, hidden_states=hidden_states)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave the initialization to timm, which has done it, but not where a file is to fill it.

        `from_pretrained` builds models without data, and calls this for what the file lacks.
        """
        if module is self.features and self._is_built_empty:
            new = _extractor(self.config).state_dict()
            for name, tensor in module.state_dict(keep_vars=True).items():
                initialization.copy_(tensor, new[name])

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return False: `_init_weights` spares what was loaded, as that of transformers' models."""
        return False

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether only block inputs are kept in training; transformers sets it in whole models."""
        return self.features.grad_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.features.set_grad_checkpointing(enable)


def _extractor(config: RegNetFeaturesConfig) -> RegNetFeatures:
    """Build the network of a config, with the stages up to the last that it returns."""
    return RegNetFeatures(
        config.network,
        in_channels=config.num_channels,
        output_stride=config.output_stride,
        norm=config.norm,
        freeze_at=config.freeze_at,
        drop_path_rate=config.drop_path_rate,
        out_levels=LEVELS[: max(i % len(LEVELS) for i in config.out_indices) + 1],
    )
