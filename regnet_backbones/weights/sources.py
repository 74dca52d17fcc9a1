"""Names of published weights, and how they come to this machine.

    timm://regnety_032.ra_in1k                      Hugging Face hub, the default tag without one
    torchvision://regnet_y_3_2gf.IMAGENET1K_V2      download.pytorch.org, DEFAULT without one
    pycls://RegNetY-3.2GF                           the paper's own classifiers
    https://.../weights.pth                         a file in any dialect
    path/to/weights.safetensors                     the same on this machine

Downloads go where the libraries keep theirs: the hub's cache for timm, torch hub's `checkpoints`
folder for the others. A file put into that folder by hand is taken without asking the network.
There the zoo's files have their published names if those say which RegNet it is; all others, many a
`model.safetensors` among them, have a hash of the URL before their names.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
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
    """Tell whether a source is the name of published weights or a URL, rather than a path."""
    return str(source).startswith(PREFIXES + URL_PREFIXES)


def find_source(source: str | Path) -> Source:
    """Return what is known of a source, without the network.

    Args:
        source: a name such as "timm://regnety_032.ra_in1k", a URL, or a path.

    Raises:
        ValueError: there is no such network, or no such weights of it.
    """
    name = str(source)
    if name.startswith("timm://"):
        return _timm(name)
    if name.startswith("torchvision://"):
        return _torchvision(name)
    if name.startswith("pycls://"):
        return _pycls(name)
    if name.startswith(URL_PREFIXES):
        return _url(name)
    if "://" in name:
        raise UserError(
            f"'{name}' is no source of weights; there are {', '.join(PREFIXES + URL_PREFIXES)} and "
            "paths"
        )
    return Source(name, file=Path(source).expanduser())


def local_file(source: Source) -> Path:
    """Return the file of a source on this machine, after a download if need be.

    Args:
        source: of `find_source`.

    Raises:
        FileNotFoundError: a path names no file.
        OSError: the download failed; the message says which file it was, where it can be put by
            hand, and how to go on without.
    """
    if source.file.is_file():
        return source.file
    if source.url is None:
        raise MissingFileError(f"no weights file at '{source.file}'")
    try:
        return _fetch(source)
    except Exception as error:  # the clients raise errors of several libraries
        raise offline_error(source, error) from error


def offline_error(source: Source, error: Exception) -> OSError:
    """Say what was looked for, where to put it by hand, and how to go on without."""
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return OSError(
        f"could not fetch the weights {source.name}: {reason}. The file is {source.url}; where "
        f"there is no network, put it at {source.file}, or give its path instead of the name; "
        f"{FROM_SCRATCH}"
    )


def _fetch(source: Source) -> Path:
    """Download the file of a source into the cache of its library."""
    if source.hub_id:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(source.hub_id, _HUB_FILE))
    source.file.parent.mkdir(parents=True, exist_ok=True)
    published_hash = _HASH.search(source.file.name) if source.variant else None
    torch.hub.download_url_to_file(
        source.url, str(source.file), hash_prefix=published_hash[1] if published_hash else None
    )
    return source.file


def _timm(name: str) -> Source:
    """Find weights of the zoo by timm's name and tag."""
    network, _, tag = name.removeprefix("timm://").partition(".")
    variant = zoo.get(network)
    if not variant.weights:
        raise UserError(f"there are no pretrained weights for {variant.name}; {FROM_SCRATCH}")
    tag = tag or variant.default_tag
    if tag not in variant.weights:
        raise UserError(
            f"'{name}' names no weights; {variant.name} has "
            + ", ".join(f"timm://{variant.name}.{known}" for known in variant.weights)
        )
    weights = variant.weights[tag]
    source = _of_row(name, variant, weights, url=_HUB.format(hub_id=weights.hub_id))
    by_hand = _by_hand(f"{variant.name}.{tag}.safetensors")
    return replace(source, file=by_hand, hub_id=weights.hub_id, dialect="timm")


def _torchvision(name: str) -> Source:
    """Find weights of torchvision by its own table."""
    network, _, tag = name.removeprefix("torchvision://").partition(".")
    variant = zoo.get(network)
    if not variant.torchvision_name:
        raise UserError(f"torchvision has no {variant.name}; timm may: timm://{variant.name}")
    known = get_model_weights(variant.torchvision_name)
    tag = tag or "DEFAULT"
    if tag not in known.__members__:
        raise UserError(
            f"'{name}' names no weights; {variant.torchvision_name} has "
            + ", ".join(f"torchvision://{variant.torchvision_name}.{k}" for k in known.__members__)
        )
    weights = known[tag]
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


def _pycls(name: str) -> Source:
    """Find the paper's own weights."""
    variant = zoo.get(name.removeprefix("pycls://"))
    weights = variant.weights.get("pycls_in1k")
    if weights is None:
        raise UserError(f"pycls has no weights of {variant.name}; timm may: timm://{variant.name}")
    return replace(_of_row(name, variant, weights, url=weights.url), dialect="pycls")


def _url(url: str) -> Source:
    """Find out about a URL: the zoo knows those that weights were published at."""
    for name in zoo.names():
        for weights in zoo.get(name).weights.values():
            if weights.url == url:
                return _of_row(url, zoo.get(name), weights, url=url)
            if url == _HUB.format(hub_id=weights.hub_id):
                return replace(_timm(f"timm://{name}.{weights.tag}"), name=url)
    return Source(url, file=_by_hand(_name_of_its_own(url)), url=url)


def _of_row(name: str, variant: zoo.Variant, weights: zoo.Weights, *, url: str) -> Source:
    """Return what the zoo knows of weights."""
    file_name = Path(urlsplit(url).path).name
    return Source(
        name,
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
