"""Names of published weights, and how they come to this machine.

    timm://regnety_032.ra_in1k                      Hugging Face hub, the default tag without one
    torchvision://regnet_y_3_2gf.IMAGENET1K_V2      download.pytorch.org, DEFAULT without one
    pycls://RegNetY-3.2GF                           the paper's own classifiers
    hf-hub:owner/name/subfolder@revision            model.safetensors of a repository of the hub
    https://.../weights.pth                         a file in any dialect
    path/to/weights.safetensors                     the same on this machine

Downloads go where the libraries keep theirs: the hub's cache for timm, torch hub's `checkpoints`
folder for the others. A file put into that folder by hand is used without a download. Of the hub
only safetensors, configs and texts are fetched, never a pickle.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from huggingface_hub import hf_hub_download, hf_hub_url, snapshot_download, try_to_load_from_cache
from torchvision.models import get_model_weights

from regnet_backbones import zoo
from regnet_backbones.errors import MissingFileError, UserError

HUB_PREFIX = "hf-hub:"
PREFIXES = ("timm://", "torchvision://", "pycls://", HUB_PREFIX)
URL_PREFIXES = ("http://", "https://")

_HUB_FILE = "model.safetensors"
_HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)((?:/\w[\w.-]*)*)(?:@([\w./-]+))?")
# What the folder of a trained model holds, see `runs.sharing`.
_HUB_FILES = (_HUB_FILE, "config.yaml", "config.json", "regnet_backbones.json", "README.md")

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
        hub_id: repository on the Hugging Face hub.
        subfolder: of the repository, None for none.
        revision: branch, tag or commit of the repository, None for its main branch.
        dialect: whose names the file has, None if only the file shows it.
        variant: the network, None if only the file shows it.
        licence: of the weights, None where unknown.
        mean: per RGB channel, subtracted from pixels in [0, 1]; None where unknown.
        std: per RGB channel, divided by afterwards; None where unknown.
    """

    name: str
    file: Path
    url: str | None = None
    hub_id: str | None = None
    subfolder: str | None = None
    revision: str | None = None
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
        ValueError: no such network, or no such weights of it.
    """
    name = str(source)
    if name.startswith(HUB_PREFIX):
        return _of_hub(name)
    scheme, separator, rest = name.partition("://")
    if not separator:
        return Source(name, file=Path(source).expanduser())
    if name.startswith(URL_PREFIXES):
        # On the Hugging Face hub every file is a model.safetensors.
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        file = _by_hand(f"{digest}-{Path(urlsplit(name).path).name}")
        return Source(name, file, url=name, licence=_licence(name))
    if not name.startswith(PREFIXES):
        allowed = ", ".join(PREFIXES + URL_PREFIXES)
        raise UserError(f"weights must be a path or begin with {allowed}, got '{name}'")
    if scheme == "pycls":  # whose names have dots
        return _pycls(name, zoo.get(rest))
    network, _, tag = rest.partition(".")
    find = _timm if scheme == "timm" else _torchvision
    return find(name, zoo.get(network), tag)


def is_available(source: Source, *, timeout: float = 5.0) -> bool:
    """Whether a source is on this machine, or its server answers within `timeout` seconds."""
    if source.url is None or source.file.is_file():
        return source.file.is_file()
    url = source.url
    if source.hub_id:
        if isinstance(try_to_load_from_cache(source.hub_id, _HUB_FILE), str):
            return True
        url = hf_hub_url(source.hub_id, _HUB_FILE)  # perhaps of a mirror
    try:
        with urlopen(Request(url, method="HEAD"), timeout=timeout):
            return True
    except (OSError, ValueError):
        return False


def local_file(source: Source) -> Path:
    """Return the file of a source on this machine, after a download if needed.

    Args:
        source: of `find_source`.

    Raises:
        OSError: the download failed.
    """
    if source.url is None or source.file.is_file():
        return source.file
    try:
        if source.hub_id:
            place = {"subfolder": source.subfolder, "revision": source.revision}
            return Path(hf_hub_download(source.hub_id, _HUB_FILE, **place))
        source.file.parent.mkdir(parents=True, exist_ok=True)
        # torchvision's names have a hash of the content: regnet_y_3_2gf-9180c971.pth.
        digest = source.file.stem.rpartition("-")[2] if source.dialect == "torchvision" else None
        torch.hub.download_url_to_file(source.url, str(source.file), hash_prefix=digest)
    except Exception as error:  # the clients raise errors of several libraries
        raise offline_error(source, error) from error
    return source.file


def hub_folder(name: str) -> Path:
    """Return the folder, on this machine, of a trained model on the hub."""
    source = _of_hub(name)
    below = f"{source.subfolder}/" if source.subfolder else ""
    wanted = [f"{below}{file}" for file in _HUB_FILES]
    try:
        folder = snapshot_download(source.hub_id, revision=source.revision, allow_patterns=wanted)
    except Exception as error:  # the client raises errors of several libraries
        text = f"could not fetch the model {name}: {first_line(error)}"
        way_out = f"Download its files from {source.url} by hand and pass their folder"
        raise MissingFileError(f"{text}. {way_out}") from error
    return Path(folder, below)


def offline_error(source: Source, error: Exception) -> MissingFileError:
    """Return an error that names the file, where to put it by hand, and how to do without."""
    text = f"could not fetch the weights {source.name}: {first_line(error)}. Download {source.url}"
    return MissingFileError(f"{text} by hand to {source.file}, or pass its path; {FROM_SCRATCH}")


def first_line(error: Exception) -> str:
    """Return the first line of an error, or its type if it has no text."""
    return str(error).partition("\n")[0] or type(error).__name__


def _of_hub(name: str) -> Source:
    """Return what is known of a repository of the hub: of timm's, the row of the zoo."""
    found = _HUB_NAME.fullmatch(name.removeprefix(HUB_PREFIX))
    if found is None:
        form = f"{HUB_PREFIX}owner/name or {HUB_PREFIX}owner/name/subfolder@revision"
        raise UserError(f"a name on the hub must be {form}, got '{name}'")
    hub_id, subfolder, revision = found[1], found[2].strip("/") or None, found[3]
    for variant in map(zoo.get, zoo.names()):
        for tag, row in variant.weights.items():
            if row.hub_id == hub_id and not subfolder:
                return replace(_timm(name, variant, tag), revision=revision)
    path = f"{subfolder}/{_HUB_FILE}" if subfolder else _HUB_FILE
    url = f"https://huggingface.co/{hub_id}/resolve/{revision or 'main'}/{path}"
    file = _by_hand(f"{hub_id}/{revision or 'main'}/{path}".replace("/", "--"))
    return Source(name, file, url, hub_id=hub_id, subfolder=subfolder, revision=revision)


def _timm(name: str, variant: zoo.Variant, tag: str) -> Source:
    if not variant.weights:
        raise UserError(f"no pretrained weights for {variant.name}; {FROM_SCRATCH}")
    tag = tag or variant.default_tag
    _check_tag(name, tag, variant.weights)
    row = variant.weights[tag]
    url = f"https://huggingface.co/{row.hub_id}/resolve/main/{_HUB_FILE}"
    file = _by_hand(f"{variant.name}.{tag}.safetensors")
    source = Source(name, file, url, hub_id=row.hub_id, dialect="timm", variant=variant)
    return replace(source, licence=row.licence, mean=row.mean, std=row.std)


def _torchvision(name: str, variant: zoo.Variant, tag: str) -> Source:
    if not variant.torchvision_name:
        raise UserError(f"torchvision has no {variant.name}; try timm://{variant.name}")
    known = get_model_weights(variant.torchvision_name).__members__
    _check_tag(name, tag or "DEFAULT", known)
    weights = known[tag or "DEFAULT"]
    file = _by_hand(Path(weights.url).name)
    source = Source(name, file, weights.url, dialect="torchvision", variant=variant)
    licence = _licence(weights.url) or "bsd-3-clause"
    return replace(source, licence=licence, mean=zoo.IMAGENET_MEAN, std=zoo.IMAGENET_STD)


def _pycls(name: str, variant: zoo.Variant) -> Source:
    weights = variant.weights.get("pycls_in1k")
    if weights is None:
        raise UserError(f"pycls has no weights of {variant.name}; try timm://{variant.name}")
    file = _by_hand(Path(weights.url).name)
    source = Source(name, file, weights.url, dialect="pycls", variant=variant)
    return replace(source, licence=weights.licence, mean=weights.mean, std=weights.std)


def _licence(url: str) -> str | None:
    """Return the licence of what was published at a URL, None where unknown."""
    rows = (row for name in zoo.names() for row in zoo.get(name).weights.values())
    return next((row.licence for row in rows if row.url == url), None)


def _check_tag(name: str, tag: str, known: Iterable[str]) -> None:
    if tag not in known:
        names = ", ".join(f"{name.partition('.')[0]}.{each}" for each in known)
        raise UserError(f"no weights '{name}'; there are {names}")


def _by_hand(name: str) -> Path:
    """Return where torch hub keeps a file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name
