"""Every named RegNet: its design, its names elsewhere, and its pretrained weights.

Names and tags are timm's. Sources of the rows:

- RegNetX, RegNetY: "Designing Network Design Spaces" (arXiv 2003.13678), pycls
  `configs/dds_baselines`. The `_tv` rows have torchvision's widths, which differ from the paper's.
- regnety_640 to 2560: "Self-supervised Pretraining of Visual Features in the Wild" (SEER, arXiv
  2103.01988) and "Revisiting Weakly Supervised Pre-Training of Visual Perception Models" (SWAG,
  arXiv 2201.08371).
- regnetv, regnetz_005 to 040_h, regnety_040_sgn: timm `timm/models/regnet.py`.
- regnetz_b16 to e8: timm `timm/models/byobnet.py`, after "Fast and Accurate Model Scaling" (arXiv
  2103.06877). Their widths follow no linear law, so they have no design; `_evos` is EvoNorm.

timm's nf_regnet_b* (scaled weight standardization instead of norms) and haloregnetz_b (attention)
are other networks and not listed.

Top-1 is ImageNet-1k validation accuracy as published with the weights, by pycls (at 224) or by
torchvision; of all others as timm measured it at the size of their training
(`results/results-imagenet.csv`, August 2026).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from types import MappingProxyType

from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

# Where the original files of weights are.
_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/"
_TIMM_ATTN = (
    "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-attn-weights/"
)
_TIMM_TPU = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-tpu-weights/"
_META = "https://dl.fbaipublicfiles.com/"
_SEER_FT = _META + "vissl/model_zoo/seer_finetuned/seer_regnet"

# An unknown name is answered with names at least this similar, at most this many.
_SIMILARITY = 0.75
_SUGGESTIONS = 3


@dataclass(frozen=True)
class Weights:
    """Pretrained weights of a variant.

    Attributes:
        tag: what timm calls this training, such as "ra3_in1k".
        hub_id: repository of the converted weights on the Hugging Face hub.
        url: the original release file, None where timm and pycls record none.
        licence: identifier of the licence of the weights, not of the code.
        mean: per RGB channel, subtracted from pixels in [0, 1].
        std: per RGB channel, divided by afterwards.
        input_size: (channels, height, width) of training, or of fine-tuning at the end.
        num_classes: outputs of the classifier, 0 where the weights have none.
        top1: published ImageNet-1k validation accuracy in percent at `input_size`, None for weights
            of another number of classes.
    """

    tag: str
    hub_id: str
    url: str | None
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: tuple[int, int, int]
    num_classes: int
    top1: float | None


@dataclass(frozen=True)
class Variant:
    """A named network.

    Attributes:
        name: timm's name.
        design: the numbers of the network, None where its widths follow no linear law.
        channels: channels of the maps C1 (stride 2) to C5 (stride 32).
        paper_name: its name in the paper and in pycls, None for what only timm or torchvision has.
        torchvision_name: its name in torchvision, if that has it with the same widths.
        weights: pretrained weights by tag, the default first; read-only.
    """

    name: str
    design: RegNetDesign | None
    channels: tuple[int, int, int, int, int]
    paper_name: str | None
    torchvision_name: str | None
    weights: Mapping[str, Weights] = field(hash=False)

    @property
    def default_tag(self) -> str | None:
        """Tag of the default weights, None where there are no weights."""
        return next(iter(self.weights), None)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Pickle and copy by name: a variant is a row of the table."""
        return get, (self.name,)


def names() -> tuple[str, ...]:
    """Return all names, by family (X, Y, V, Z) and rising size."""
    return tuple(_VARIANTS)


def get(name: str) -> Variant:
    """Return the variant of that name.

    Args:
        name: timm's name ("regnety_032"), torchvision's ("regnet_y_3_2gf"), or the paper's, as
            pycls and mmdetection write it too ("RegNetY-3.2GF", "RegNetX-4.0GF", "regnetx_4GF").
            torchvision's "regnet_x_400mf" and the paper's "RegNetX-400MF" are two networks.

    Raises:
        ValueError: there is no such variant, or the name has a tag.
    """
    variant = _VARIANTS.get(name) or _BY_TORCHVISION.get(name) or _BY_PAPER.get(_plain(name))
    if variant is not None:
        return variant
    base, _, tag = name.partition(".")
    if base in _VARIANTS:
        raise UserError(
            f"'{name}' is a name with a tag; pass them separately, the name '{base}' and the tag "
            f"'{tag}' (known tags: {', '.join(_VARIANTS[base].weights) or 'none'})"
        )
    similar = _similar(name)
    hint = f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
    raise UserError(f"unknown RegNet '{name}'; {hint}regnet_backbones.zoo.names() lists all")


def _plain(name: str) -> str:
    """Reduce the spellings of a paper name to one: RegNetX-4.0GF, RegNetX-4GF, regnetx_4.0gf."""
    return name.lower().replace("_", "-").replace(".0gf", "gf")


def _similar(name: str) -> list[str]:
    """Return the names most like this one; among equals those of the nearest size."""
    scores = {known: SequenceMatcher(None, name.lower(), known).ratio() for known in _VARIANTS}
    near = [known for known, score in scores.items() if score >= _SIMILARITY]
    near.sort(key=lambda known: (-scores[known], abs(_size(known) - _size(name))))
    return near[:_SUGGESTIONS]


def _size(name: str) -> int:
    """Return the first number in a name, 0 without one."""
    digits = re.search(r"\d+", name)
    return int(digits.group()) if digits else 0


@dataclass(frozen=True)
class _Training:
    """What all weights of one tag share; `root` is the start of their url."""

    licence: str
    root: str = ""
    side: int = 224
    num_classes: int = 1000


_TRAININGS = {
    "pycls_in1k": _Training("mit", _META + "pycls/dds_baselines/"),
    "tv2_in1k": _Training("bsd-3-clause", _TORCHVISION),
    "swag_ft_in1k": _Training("cc-by-nc-4.0", _TORCHVISION, side=384),
    "swag_lc_in1k": _Training("cc-by-nc-4.0", _TORCHVISION),
    "seer_ft_in1k": _Training("seer-license", _SEER_FT, side=384),
    "seer": _Training("seer-license", _META + "vissl/model_zoo/", num_classes=0),
    "deit_in1k": _Training("apache-2.0", _META + "deit/"),
    "ra_in1k": _Training("apache-2.0", _TIMM + "v0.1-weights/"),
    "ra3_in1k": _Training("apache-2.0", _TIMM + "v0.1-tpu-weights/"),
    "ch_in1k": _Training("apache-2.0"),
    "sw_in12k_ft_in1k": _Training("apache-2.0"),
    "lion_in12k_ft_in1k": _Training("apache-2.0"),
    "sw_in12k": _Training("apache-2.0", num_classes=11821),
}


@dataclass(frozen=True)
class _Release:
    """One file of weights: the end of its url or all of it, and where it is unlike its tag."""

    tag: str
    file: str | None = None
    top1: float | None = None
    side: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def weights(self, name: str) -> Weights:
        """Complete the row with what its tag says."""
        training = _TRAININGS[self.tag]
        side = self.side or training.side
        return Weights(
            tag=self.tag,
            hub_id=f"timm/{name}.{self.tag}",
            url=self.file and (self.file if "://" in self.file else training.root + self.file),
            licence=training.licence,
            mean=self.mean,
            std=self.std,
            input_size=(3, side, side),
            num_classes=training.num_classes,
            top1=self.top1,
        )


def _row(
    name: str,
    design: RegNetDesign | tuple[int, int, int, int, int],
    *releases: _Release,
    paper: str | None = None,
    torchvision: str | None = None,
) -> Variant:
    """Make a row from a design, or from the channels of a network that has none."""
    if isinstance(design, RegNetDesign):
        c2, c3, c4, c5 = (stage.width for stage in design.stages)
        law, channels = design, (design.stem_width, c2, c3, c4, c5)
    else:
        law, channels = None, design
    weights = {release.tag: release.weights(name) for release in releases}
    return Variant(name, law, channels, paper, torchvision, MappingProxyType(weights))


def _x(w_0: int, w_a: float, w_m: float, depth: int, group_width: int) -> RegNetDesign:
    """Return a RegNetX."""
    return RegNetDesign(w_0, w_a, w_m, depth, group_width)


def _y(w_0: int, w_a: float, w_m: float, depth: int, group_width: int) -> RegNetDesign:
    """Return a RegNetY: an X with squeeze-and-excitation."""
    return RegNetDesign(w_0, w_a, w_m, depth, group_width, se_ratio=0.25)


def _z(
    w_0: int, w_a: float, w_m: float, depth: int, group_width: int, head_width: int
) -> RegNetDesign:
    """Return a RegNetZ: inverted bottlenecks that end linear, no projected shortcuts."""
    return RegNetDesign(
        w_0,
        w_a,
        w_m,
        depth,
        group_width,
        bottleneck_multiplier=4.0,
        se_ratio=0.25,
        activation="silu",
        shortcut="none",
        linear_out=True,
        head_width=head_width,
    )


def _pycls(top1: float, job: str) -> _Release:
    """Return the paper's weights; pycls names the file after the training job and the network."""
    return _Release("pycls_in1k", f"{job}_dds_8gpu.pyth", top1)


def _half(tag: str, url: str, side: int = 256, *, top1: float) -> _Release:
    """Return weights whose inputs are scaled to [-1, 1]."""
    return _Release(tag, url, top1, side, mean=HALF, std=HALF)


# Order of `names()`; the first release of a row is the default.
_ROWS = (
    _row(
        "regnetx_002",
        _x(24, 36.44, 2.49, 13, 8),
        _pycls(68.912, "160905981/RegNetX-200MF"),
        paper="RegNetX-200MF",
    ),
    _row(
        "regnetx_004",
        _x(24, 24.48, 2.54, 22, 16),
        _pycls(72.618, "160905967/RegNetX-400MF"),
        paper="RegNetX-400MF",
    ),
    _row(
        "regnetx_004_tv",
        replace(_x(24, 24.48, 2.54, 22, 16), rounding="torchvision"),
        _Release("tv2_in1k", "regnet_x_400mf-62229a5f.pth", 74.864),
        torchvision="regnet_x_400mf",
    ),
    _row(
        "regnetx_006",
        _x(48, 36.97, 2.24, 16, 24),
        _pycls(74.136, "160906442/RegNetX-600MF"),
        paper="RegNetX-600MF",
    ),
    _row(
        "regnetx_008",
        _x(56, 35.73, 2.28, 16, 16),
        _Release("tv2_in1k", "regnet_x_800mf-94a99ebd.pth", 77.522),
        _pycls(75.154, "160906036/RegNetX-800MF"),
        paper="RegNetX-800MF",
        torchvision="regnet_x_800mf",
    ),
    _row(
        "regnetx_016",
        _x(80, 34.01, 2.25, 18, 24),
        _Release("tv2_in1k", "regnet_x_1_6gf-a12f2b72.pth", 79.668),
        _pycls(76.962, "160990626/RegNetX-1.6GF"),
        paper="RegNetX-1.6GF",
        torchvision="regnet_x_1_6gf",
    ),
    _row(
        "regnetx_032",
        _x(88, 26.31, 2.25, 25, 48),
        _Release("tv2_in1k", "regnet_x_3_2gf-7071aa85.pth", 81.196),
        _pycls(78.264, "160906139/RegNetX-3.2GF"),
        paper="RegNetX-3.2GF",
        torchvision="regnet_x_3_2gf",
    ),
    _row(
        "regnetx_040",
        _x(96, 38.65, 2.43, 23, 40),
        _pycls(78.644, "160906383/RegNetX-4.0GF"),
        paper="RegNetX-4.0GF",
    ),
    _row(
        "regnetx_064",
        _x(184, 60.83, 2.07, 17, 56),
        _pycls(79.156, "161116590/RegNetX-6.4GF"),
        paper="RegNetX-6.4GF",
    ),
    _row(
        "regnetx_080",
        _x(80, 49.56, 2.88, 23, 120),
        _Release("tv2_in1k", "regnet_x_8gf-2b70d774.pth", 81.682),
        _pycls(79.272, "161107726/RegNetX-8.0GF"),
        paper="RegNetX-8.0GF",
        torchvision="regnet_x_8gf",
    ),
    _row(
        "regnetx_120",
        _x(168, 73.36, 2.37, 19, 112),
        _pycls(79.712, "160906020/RegNetX-12GF"),
        paper="RegNetX-12GF",
    ),
    _row(
        "regnetx_160",
        _x(216, 55.59, 2.1, 22, 128),
        _Release("tv2_in1k", "regnet_x_16gf-ba3796d7.pth", 82.716),
        _pycls(80.044, "158460855/RegNetX-16GF"),
        paper="RegNetX-16GF",
        torchvision="regnet_x_16gf",
    ),
    _row(
        "regnetx_320",
        _x(320, 69.86, 2.0, 23, 168),
        _Release("tv2_in1k", "regnet_x_32gf-6eb8fdc6.pth", 83.014),
        _pycls(80.502, "158188473/RegNetX-32GF"),
        paper="RegNetX-32GF",
        torchvision="regnet_x_32gf",
    ),
    _row(
        "regnety_002",
        _y(24, 36.44, 2.49, 13, 8),
        _pycls(70.342, "176245422/RegNetY-200MF"),
        paper="RegNetY-200MF",
    ),
    _row(
        "regnety_004",
        _y(48, 27.89, 2.09, 16, 8),
        _Release("tv2_in1k", "regnet_y_400mf-e6988f5f.pth", 75.804),
        _pycls(74.102, "160906449/RegNetY-400MF"),
        paper="RegNetY-400MF",
        torchvision="regnet_y_400mf",
    ),
    _row(
        "regnety_006",
        _y(48, 32.54, 2.32, 15, 16),
        _pycls(75.46, "160981443/RegNetY-600MF"),
        paper="RegNetY-600MF",
    ),
    _row(
        "regnety_008",
        _y(56, 38.84, 2.4, 14, 16),
        _pycls(76.316, "160906567/RegNetY-800MF"),
        paper="RegNetY-800MF",
    ),
    _row(
        "regnety_008_tv",
        replace(_y(56, 38.84, 2.4, 14, 16), rounding="torchvision"),
        _Release("tv2_in1k", "regnet_y_800mf-58fc7688.pth", 78.828),
        torchvision="regnet_y_800mf",
    ),
    _row(
        "regnety_016",
        _y(48, 20.71, 2.65, 27, 24),
        _Release("tv2_in1k", "regnet_y_1_6gf-0d7bc02a.pth", 80.876),
        _pycls(77.934, "160906681/RegNetY-1.6GF"),
        paper="RegNetY-1.6GF",
        torchvision="regnet_y_1_6gf",
    ),
    _row(
        "regnety_032",
        _y(80, 42.63, 2.66, 21, 24),
        _Release("ra_in1k", "regnety_032_ra-7f2439f9.pth", top1=81.948),
        _Release("tv2_in1k", "regnet_y_3_2gf-9180c971.pth", 81.982),
        _pycls(78.926, "160906834/RegNetY-3.2GF"),
        paper="RegNetY-3.2GF",
        torchvision="regnet_y_3_2gf",
    ),
    _row(
        "regnety_040",
        _y(96, 31.41, 2.24, 22, 64),
        _Release("ra3_in1k", "regnety_040_ra3-670e1166.pth", top1=82.308),
        _pycls(79.36, "160906838/RegNetY-4.0GF"),
        paper="RegNetY-4.0GF",
    ),
    _row(
        "regnety_040_sgn",
        replace(_y(96, 31.41, 2.24, 22, 64), activation="silu", norm_group_width=16),
    ),
    _row(
        "regnety_064",
        _y(112, 33.22, 2.27, 25, 72),
        _Release("ra3_in1k", "regnety_064_ra3-aa26dc7d.pth", top1=83.006),
        _pycls(79.89, "160907112/RegNetY-6.4GF"),
        paper="RegNetY-6.4GF",
    ),
    _row(
        "regnety_080",
        _y(192, 76.82, 2.19, 17, 56),
        _Release("ra3_in1k", "regnety_080_ra3-1fdc4344.pth", top1=83.166),
        _pycls(79.948, "161160905/RegNetY-8.0GF"),
        paper="RegNetY-8.0GF",
    ),
    _row(
        "regnety_080_tv",
        replace(_y(192, 76.82, 2.19, 17, 56), rounding="torchvision"),
        _Release("tv2_in1k", "regnet_y_8gf-dc2b1b54.pth", 82.828),
        torchvision="regnet_y_8gf",
    ),
    _row(
        "regnety_120",
        _y(168, 73.36, 2.37, 19, 112),
        _Release("sw_in12k_ft_in1k", top1=84.994),
        _Release("sw_in12k"),
        _pycls(80.33, "160907100/RegNetY-12GF"),
        paper="RegNetY-12GF",
    ),
    _row(
        "regnety_160",
        _y(200, 106.23, 2.48, 18, 112),
        _Release("sw_in12k_ft_in1k", top1=85.596),
        _Release("lion_in12k_ft_in1k", top1=85.602),
        _Release("sw_in12k"),
        _Release("deit_in1k", "regnety_160-a5fe301d.pth", top1=83),
        _Release("tv2_in1k", "regnet_y_16gf-3e4a00f9.pth", 82.886),
        _Release("swag_ft_in1k", "regnet_y_16gf_swag-43afe44d.pth", 86.012),
        _Release("swag_lc_in1k", "regnet_y_16gf_lc_swag-f3ec0043.pth", 83.976),
        _pycls(80.392, "161303400/RegNetY-16GF"),
        paper="RegNetY-16GF",
        torchvision="regnet_y_16gf",
    ),
    _row(
        "regnety_320",
        _y(232, 115.89, 2.53, 20, 232),
        _Release("tv2_in1k", "regnet_y_32gf-8db6d4b5.pth", 83.368),
        _Release("swag_ft_in1k", "regnet_y_32gf_swag-04fdfa75.pth", 86.838),
        _Release("swag_lc_in1k", "regnet_y_32gf_lc_swag-e1583746.pth", 84.622),
        _Release(
            "seer_ft_in1k", "32_finetuned_in1k_model_final_checkpoint_phase78.torch", top1=83.324
        ),
        _Release("seer", "seer_regnet32d/seer_regnet32gf_model_iteration244000.torch"),
        _pycls(80.934, "161277763/RegNetY-32GF"),
        paper="RegNetY-32GF",
        torchvision="regnet_y_32gf",
    ),
    _row(
        "regnety_640",
        _y(352, 147.48, 2.4, 20, 328),
        _Release(
            "seer_ft_in1k", "64_finetuned_in1k_model_final_checkpoint_phase78.torch", top1=83.924
        ),
        _Release("seer", "seer_regnet64/seer_regnet64gf_model_final_checkpoint_phase0.torch"),
        paper="RegNetY-64GF",
    ),
    _row(
        "regnety_1280",
        _y(456, 160.83, 2.52, 27, 264),
        _Release("swag_ft_in1k", "regnet_y_128gf_swag-c8ce3e52.pth", 88.228),
        _Release("swag_lc_in1k", "regnet_y_128gf_lc_swag-cbe8ce12.pth", 86.068),
        _Release(
            "seer_ft_in1k", "128_finetuned_in1k_model_final_checkpoint_phase78.torch", top1=84.426
        ),
        _Release(
            "seer",
            "swav_ig1b_regnet128Gf_cnstant_bs32_node16_sinkhorn10_proto16k_syncBN64_warmup8k/"
            "model_final_checkpoint_phase0.torch",
        ),
        paper="RegNetY-128GF",
        torchvision="regnet_y_128gf",
    ),
    _row(
        "regnety_2560",
        _y(640, 230.83, 2.53, 27, 373),
        _Release(
            "seer_ft_in1k", "256_finetuned_in1k_model_final_checkpoint_phase38.torch", top1=85.144
        ),
        paper="RegNetY-256GF",
    ),
    _row(
        "regnetv_040",
        replace(_y(96, 31.41, 2.24, 22, 64), activation="silu", preact=True),
        _Release("ra3_in1k", "regnetv_040_ra3-c248f51f.pth", top1=82.44),
    ),
    _row(
        "regnetv_064",
        replace(_y(112, 33.22, 2.27, 25, 72), activation="silu", preact=True, shortcut="avg"),
        _Release("ra3_in1k", "regnetv_064_ra3-530616c2.pth", top1=83.118),
    ),
    _row("regnetz_005", _z(16, 10.7, 2.51, 21, 4, head_width=1024)),
    _row(
        "regnetz_040",
        _z(48, 14.5, 2.226, 28, 8, head_width=0),
        _Release("ra3_in1k", "regnetz_040_ra3-9007edf5.pth", side=256, top1=83.644),
    ),
    _row(
        "regnetz_040_h",
        _z(48, 14.5, 2.226, 28, 8, head_width=1536),
        _Release("ra3_in1k", "regnetz_040h_ra3-f594343b.pth", side=256, top1=83.764),
    ),
    _row(
        "regnetz_b16",
        (32, 48, 96, 192, 1536),
        _half("ra3_in1k", _TIMM_ATTN + "regnetz_b_raa-677d9606.pth", side=224, top1=79.864),
    ),
    _row("regnetz_b16_evos", (32, 48, 96, 192, 1536)),
    _row(
        "regnetz_c16",
        (32, 48, 96, 192, 1536),
        _half("ra3_in1k", _TIMM_ATTN + "regnetz_c_rab2_256-a54bf36a.pth", top1=82.162),
    ),
    _row(
        "regnetz_c16_evos",
        (32, 48, 96, 192, 1536),
        _half("ch_in1k", _TIMM_TPU + "regnetz_c16_evos_ch-d8311942.pth", top1=81.94),
    ),
    _row(
        "regnetz_d8",
        (32, 64, 128, 256, 1792),
        _half("ra3_in1k", _TIMM_ATTN + "regnetz_d8_bh-afc03c55.pth", top1=83.546),
    ),
    _row(
        "regnetz_d8_evos",
        (64, 64, 128, 256, 1792),
        _half("ch_in1k", _TIMM_TPU + "regnetz_d8_evos_ch-2bc12646.pth", top1=83.404),
    ),
    _row(
        "regnetz_d32",
        (32, 64, 128, 256, 1792),
        _half("ra3_in1k", _TIMM_ATTN + "regnetz_d_rab_256-b8073a89.pth", top1=83.432),
    ),
    _row(
        "regnetz_e8",
        (32, 96, 192, 384, 2048),
        _half("ra3_in1k", _TIMM_ATTN + "regnetz_e8_bh-aace8e6e.pth", top1=84.418),
    ),
)

_VARIANTS = {row.name: row for row in _ROWS}
_BY_TORCHVISION = {row.torchvision_name: row for row in _ROWS if row.torchvision_name}
_BY_PAPER = {_plain(row.paper_name): row for row in _ROWS if row.paper_name}
