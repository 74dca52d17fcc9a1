"""Names of published weights, and how they come to this machine.

    timm://regnety_032.ra_in1k                      Hugging Face hub, the default tag without one
    torchvision://regnet_y_3_2gf.IMAGENET1K_V2      download.pytorch.org, DEFAULT without one
    pycls://RegNetY-3.2GF                           the paper's own classifiers
    https://.../weights.pth                         a file in any dialect
    path/to/weights.safetensors                     the same on this machine

Downloads go where the libraries keep theirs: the hub's cache for timm, torch hub's `checkpoints`
folder for the others. A file put into that folder by hand is used without a download. Files whose
published names do not say which RegNet they hold have a hash of the URL before their names.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import torch
from torchvision.models import get_model_weights

from regnet_backbones import zoo
from regnet_backbones.errors import MissingFileError, UserError

PREFIXES = ("timm://", "torchvision://", "pycls://")
URL_PREFIXES = ("http://", "https://")

# What a torchvision file name says of its content: regnet_y_3_2gf-9180c971.pth.
_HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")
# A published file whose name says its network is the only one of its name.
_NETWORK = re.compile(r"regnet", re.IGNORECASE)
_HUB_FILE = "model.safetensors"
_HUB = "https://huggingface.co/{hub_id}/resolve/main/" + _HUB_FILE

T = TypeVar("T")

FROM_SCRATCH = (
    "to start from random weights instead, pass pretrained=False (SMP: encoder_weights=None; "
    "Detectron2: MODEL.WEIGHTS '' with MODEL.REGNET.NORM 'BN' and MODEL.BACKBONE.FREEZE_AT 0)"
)


@dataclass(frozen=True)
class Source:
    """Where weights come from, and what is known of them before they are read.

    Attributes:
        name: as it was given.
        file: its file on this machine, or where a download of it goes by hand.
        url: where the file is on the network, None for a file of this machine.
        hub_id: repository on the Hugging Face hub, for timm's.
        dialect: whose names the file has, None where only the file can tell.
        variant: the network, None where only the file can tell.
        licence: of the weights, None where unknown.
        mean: per RGB channel, subtracted from pixels in [0, 1]; None where unknown.
        std: per RGB channel, divided by afterwards; None where unknown.
    """

    name: str
    file: Path
    url: str | None = None
    hub_id: str | None = None
    dialect: str | None = None
    variant: zoo.Variant | None = None
    licence: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


def is_name(source: str | Path) -> bool:
    """Whether a source is the name of published weights or a URL, rather than a path."""
    return str(source).startswith(PREFIXES + URL_PREFIXES)


def find_source(source: str | Path) -> Source:
    """Return what is known of a source, without the network.

    Args:
        source: a name such as "timm://regnety_032.ra_in1k", a URL, or a path.

    Raises:
        ValueError: there is no such network, or no such weights of it.
    """
    scheme, separator, rest = str(source).partition("://")
    if not separator:
        return Source(str(source), file=Path(source).expanduser())
    if scheme == "pycls":  # whose names have dots
        return replace(_pycls(zoo.get(rest)), name=str(source))
    if scheme in ("timm", "torchvision"):
        network, _, tag = rest.partition(".")
        find = _timm if scheme == "timm" else _torchvision
        return replace(find(zoo.get(network), tag, str(source)), name=str(source))
    if scheme in ("http", "https"):
        return _url(str(source))
    raise UserError(
        f"'{source}' is not a source of weights; there are {', '.join(PREFIXES + URL_PREFIXES)} "
        "and paths"
    )


def local_file(source: Source) -> Path:
    """Return the file of a source on this machine, after a download if need be.

    Args:
        source: of `find_source`.

    Raises:
        FileNotFoundError: a path names no file.
        OSError: the download failed; the message names the file and where to put it by hand.
    """
    if source.file.is_file():
        return source.file
    if source.url is None:
        raise MissingFileError(f"no weights file at '{source.file}'")
    try:
        if source.hub_id:
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(source.hub_id, _HUB_FILE))
        source.file.parent.mkdir(parents=True, exist_ok=True)
        published_hash = _HASH.search(source.file.name) if source.variant else None
        torch.hub.download_url_to_file(
            source.url, str(source.file), hash_prefix=published_hash[1] if published_hash else None
        )
    except Exception as error:  # the clients raise errors of several libraries
        raise offline_error(source, error) from error
    return source.file


def offline_error(source: Source, error: Exception) -> MissingFileError:
    """Return an error that names the file, where to put it by hand, and how to do without."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return MissingFileError(
        f"could not fetch the weights {source.name}: {reason}. The file is {source.url}; where "
        f"there is no network, put it at {source.file}, or give its path instead of the name; "
        f"{FROM_SCRATCH}"
    )


def _timm(variant: zoo.Variant, tag: str, name: str) -> Source:
    """Find weights of the zoo by timm's tag, the default without one."""
    if not variant.weights:
        raise UserError(f"there are no pretrained weights for {variant.name}; {FROM_SCRATCH}")
    weights = _choose(name, tag or variant.default_tag, variant.weights, f"timm://{variant.name}")
    source = _of_row(variant, weights, _HUB.format(hub_id=weights.hub_id))
    by_hand = _by_hand(f"{variant.name}.{weights.tag}.safetensors")
    return replace(source, file=by_hand, hub_id=weights.hub_id, dialect="timm")


def _torchvision(variant: zoo.Variant, tag: str, name: str) -> Source:
    """Find weights of torchvision by its own table."""
    theirs = variant.torchvision_name
    if not theirs:
        raise UserError(f"torchvision has no {variant.name}; timm may: timm://{variant.name}")
    known = get_model_weights(theirs).__members__
    weights = _choose(name, tag or "DEFAULT", known, f"torchvision://{theirs}")
    transforms = weights.transforms()
    noncommercial = any(
        w.url == weights.url and "nc" in w.licence.split("-") for w in variant.weights.values()
    )
    return Source(
        name,
        file=_by_hand(Path(weights.url).name),
        url=weights.url,
        dialect="torchvision",
        variant=variant,
        licence="cc-by-nc-4.0" if noncommercial else "bsd-3-clause",
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _pycls(variant: zoo.Variant) -> Source:
    """Find the paper's own weights."""
    weights = variant.weights.get("pycls_in1k")
    if weights is None:
        raise UserError(f"pycls has no weights of {variant.name}; timm may: timm://{variant.name}")
    return replace(_of_row(variant, weights, weights.url), dialect="pycls")


def _url(url: str) -> Source:
    """Find out about a URL: the zoo knows those that weights were published at."""
    for variant in map(zoo.get, zoo.names()):
        for weights in variant.weights.values():
            if weights.url == url:
                return _of_row(variant, weights, url)
            if url == _HUB.format(hub_id=weights.hub_id):
                return replace(_timm(variant, weights.tag, url), name=url)
    return Source(url, file=_by_hand(_name_of_its_own(url)), url=url)


def _choose(name: str, tag: str, known: Mapping[str, T], network: str) -> T:
    """Return the weights of a tag."""
    if tag not in known:
        raise UserError(
            f"'{name}' names no weights; there are " + ", ".join(f"{network}.{t}" for t in known)
        )
    return known[tag]


def _of_row(variant: zoo.Variant, weights: zoo.Weights, url: str) -> Source:
    """Return what the zoo knows of weights."""
    file_name = Path(urlsplit(url).path).name
    return Source(
        url,
        file=_by_hand(file_name if _NETWORK.search(file_name) else _name_of_its_own(url)),
        url=url,
        variant=variant,
        licence=weights.licence,
        mean=weights.mean,
        std=weights.std,
    )


def _by_hand(name: str) -> Path:
    """Return where torch hub keeps a file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _name_of_its_own(url: str) -> str:
    """Return the name of a URL's file behind a hash of the URL: others have such a file, too."""
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{Path(urlsplit(url).path).name}"
