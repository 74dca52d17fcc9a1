"""`timm://`, `torchvision://` and `pycls://` as paths of detectron2, `MODEL.WEIGHTS` among them.

A path handler of detectron2's `PathManager` gives the file on this machine, as it was published;
`checkpoint` reads it. pycls's files lie where detectron2 caches URLs, the others where their
libraries do.
"""

import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from urllib.error import URLError
from urllib.parse import urlsplit

from iopath.common.file_io import PathHandler, get_cache_dir

from regnet_backbones.errors import UserError
from regnet_backbones.weights.sources import PREFIXES, find_source, local_file, offline_error

logger = logging.getLogger(__name__)


class WeightsHandler(PathHandler):
    """Resolve names of published weights, such as `timm://regnety_032.ra_in1k`."""

    def _get_supported_prefixes(self) -> list[str]:
        return list(PREFIXES)

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        source = find_source(path)
        if path.startswith("pycls://") and not source.file.is_file():
            file = fetch(source.url, of=path)
        else:
            file = str(local_file(source))
        logger.info("weights %s, licence %s, in %s", path, source.licence, file)
        return file

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object) -> object:
        if mode not in ("r", "rb"):
            raise UserError(f"{path} can only be read, got mode {mode!r}")
        return open(self._get_local_path(path), "rb")


def register_on_import(file_io: ModuleType) -> None:
    """Register the handler in the PathManager of `detectron2.utils.file_io`."""
    file_io.PathManager.register_handler(WeightsHandler(), allow_override=True)


def fetch(path: str, *, of: str | None = None) -> str:
    """Bring the weights of a name or URL to this machine, where detectron2 will find them.

    Returns the path of their file. Where the download failed, an OSError says where a copy of the
    file is looked for; `of` is what the weights are called there.
    """
    from detectron2.utils.file_io import PathManager

    try:
        return PathManager.get_local_path(path)
    except URLError as error:
        raise url_error(of or path, error) from error


def url_error(name: str, error: Exception) -> OSError:
    """Say of a URL, or a name that has one, where detectron2 looks for a copy of its file."""
    source = find_source(name)
    file = Path(get_cache_dir()) / urlsplit(source.url).path.lstrip("/")
    return offline_error(replace(source, file=file), error)
