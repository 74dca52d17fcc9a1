"""Write regnet_backbones/zoo.json, every RegNet that the installed timm has.

python tools/make_zoo.py
python tools/make_zoo.py --output zoo.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from timm.models.regnet import RegNetCfg, model_cfgs

ZOO = Path(__file__).resolve().parents[1] / "regnet_backbones" / "zoo.json"
FAMILIES = ("regnetx", "regnety", "regnetv", "regnetz")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ZOO, metavar="FILE")
    parser.parse_args(argv).output.write_text(table())
    return 0


def table() -> str:
    """Return the json, with a line for each network and each of its weights."""
    names = sorted(timm.list_models("regnet*"), key=lambda name: FAMILIES.index(name[:7]))
    rows = []
    for name in names:
        with torch.device("meta"):
            network = timm.create_model(name, features_only=True)
        cfg = model_cfgs.get(name)  # regnetz_b16 to e8 follow no linear law
        weights = ",".join(
            f"\n   {json.dumps(each.tag)}: {json.dumps(published)}"
            for each in get_arch_pretrained_cfgs(name).values()
            if each.has_weights
            for published in [
                {
                    "hub_id": each.hf_hub_id,
                    "url": each.url or None,
                    "licence": each.license,
                    "mean": each.mean,
                    "std": each.std,
                    "input_size": each.input_size,
                    "num_classes": each.num_classes,
                }
            ]
        )
        rows.append(
            f" {json.dumps(name)}: {{\n"
            f'  "design": {json.dumps(design(cfg) if cfg else None)},\n'
            f'  "channels": {json.dumps(network.feature_info.channels())},\n'
            f'  "weights": {{{weights}}}\n }}'
        )
    return "{\n" + ",\n".join(rows) + "\n}\n"


def design(cfg: RegNetCfg) -> dict[str, object]:
    """Translate timm's configuration into the arguments of `RegNetDesign`."""
    is_batch_norm = cfg.norm_layer == "batchnorm"
    return {
        "w_0": cfg.w0,
        "w_a": cfg.wa,
        "w_m": cfg.wm,
        "depth": cfg.depth,
        "group_width": cfg.group_size,
        "bottleneck_multiplier": cfg.bottle_ratio,
        "se_ratio": cfg.se_ratio,
        "stem_width": cfg.stem_width,
        "rounding": {0.0: "paper", 0.9: "torchvision"}[cfg.group_min_ratio],
        "activation": cfg.act_layer,
        "preact": cfg.preact,
        "shortcut": cfg.downsample or "none",
        "linear_out": cfg.linear_out,
        "head_width": cfg.num_features,
        "norm_group_width": 0 if is_batch_norm else cfg.norm_layer.keywords["group_size"],
    }


if __name__ == "__main__":
    raise SystemExit(main())
