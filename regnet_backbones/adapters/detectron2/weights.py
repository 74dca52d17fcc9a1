"""`timm://`, `torchvision://` and `pycls://` as paths of detectron2, `MODEL.WEIGHTS` among them.

A path handler of detectron2's `PathManager` gives the file on this machine, as it was published;
`detectron2_checkpoint` reads it. pycls's files lie where detectron2 caches URLs, the others where
their libraries do.
"""

import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from urllib.error import URLError
from urllib.parse import urlsplit

from iopath.common.file_io import PathHandler, get_cache_dir

from regnet_backbones.errors import UserError
from regnet_backbones.weights.sources import (
    PREFIXES,
    Source,
    find_source,
    local_file,
    offline_error,
)

logger = logging.getLogger(__name__)


class WeightsHandler(PathHandler):
    """Resolve names of published weights, such as `timm://regnety_032.ra_in1k`."""

    def _get_supported_prefixes(self) -> list[str]:
        return list(PREFIXES)

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        source = find_source(path)
        if path.startswith("pycls://") and not source.file.is_file():
            file = _through_detectron2(source)
        else:
            file = local_file(source)
        logger.info("weights %s, licence %s, in %s", path, source.licence, file)
        return str(file)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object) -> object:
        if mode not in ("r", "rb"):
            raise UserError(f"{path} can only be read, got mode {mode!r}")
        return open(self._get_local_path(path), "rb")


def register_on_import(file_io: ModuleType) -> None:
    """Register the handler in the PathManager of `detectron2.utils.file_io`."""
    file_io.PathManager.register_handler(WeightsHandler(), allow_override=True)


def fetch(path: str) -> None:
    """Bring the weights of a name or URL to this machine, where detectron2 will find them.

    Raises:
        ValueError: there are no such weights.
        OSError: the download failed.
    """
    from detectron2.utils.file_io import PathManager

    try:
        PathManager.get_local_path(path)
    except URLError as error:
        raise url_error(path, error) from error


def url_error(url: str, error: Exception) -> OSError:
    """Say of a URL that could not be fetched where detectron2 looks for a copy of its file."""
    return offline_error(replace(find_source(url), file=_cached(url)), error)


def _through_detectron2(source: Source) -> str:
    """Fetch a URL as detectron2 does, into its cache."""
    from detectron2.utils.file_io import PathManager

    try:
        return PathManager.get_local_path(source.url)
    except Exception as error:
        raise offline_error(replace(source, file=_cached(source.url)), error) from error


def _cached(url: str) -> Path:
    """Return where detectron2's `PathManager` keeps the file of a URL."""
    return Path(get_cache_dir()) / urlsplit(url).path.lstrip("/")
