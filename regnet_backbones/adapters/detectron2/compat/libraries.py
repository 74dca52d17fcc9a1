"""Names and behaviour that detectron2 uses and that newer libraries dropped or changed."""

import json
import random
import re
from contextlib import AbstractContextManager
from types import ModuleType

from regnet_backbones.adapters.detectron2.compat.hook import replaces, source_of


def removed_aliases(source: str) -> dict[str, object]:
    """Return what the names meant that a source uses and numpy has no more."""
    import numpy

    known: dict[str, object] = {kind.__name__: kind for kind in (bool, float, int, object, str)}
    known["in1d"] = lambda ar1, ar2, **options: numpy.isin(ar1, ar2, **options).ravel()
    used = set(re.findall(rf"\bnp\.({'|'.join(known)})\b", source))
    # vars and not hasattr, which makes numpy warn about the very names.
    return {name: known[name] for name in used if name not in vars(numpy)}


def numpy_alias_removed(module: ModuleType) -> None:
    """numpy 1.24 removed np.int and its like, 2.4 np.in1d: give them to this module alone."""
    import numpy

    stand_in = ModuleType("numpy")
    vars(stand_in).update(removed_aliases(source_of(module)))
    stand_in.__getattr__ = lambda name: getattr(numpy, name)
    module.np = stand_in


def count_refused_by_json(module: ModuleType) -> None:
    """numpy 2.4 counts in numbers of its own, which json cannot write: write Python's."""

    def write(content: object, path: str) -> None:
        with open(path, "w") as file:
            json.dump(content, file, default=lambda value: value.item(), sort_keys=True, indent=4)

    module.writeDict2JSON = write


def pillow_linear_removed() -> AbstractContextManager[object]:
    """Pillow 10 removed Image.LINEAR, a default argument here."""
    from unittest.mock import patch

    from PIL import Image

    return patch.object(Image, "LINEAR", Image.BILINEAR, create=True)


def tiff_turned_twice(module: ModuleType) -> None:
    """Pillow turns a TIFF by its EXIF data when it loads it, detectron2 once more: load first."""

    @replaces(module)
    def _apply_exif_orientation(stock, image):
        if image.format == "TIFF":
            image.load()
        return stock(image)


def sampling_from_a_set_removed(module: ModuleType) -> None:
    """Python 3.11 removed sampling from a set, which replaces unusable images: sort them first."""

    @replaces(module.MapDataset)
    def __init__(stock, self, dataset, map_func):  # noqa: N807
        stock(self, dataset, map_func)
        self._rng = _SetSampler(42)  # as detectron2 seeds it


def group_norm_with_one_channel_refused(module: ModuleType) -> None:
    """torch refuses GroupNorm(32, 1), with which the head probes its norm."""

    @replaces(module)
    def get_norm(stock, norm, out_channels):
        probing = isinstance(norm, str) and norm == "GN" and out_channels == 1
        return stock(norm, 32 if probing else out_channels)


def profiler_use_cuda_removed(module: ModuleType) -> None:
    """torch removed the autograd profiler's use_cuda: name the device."""
    from torch import cuda
    from torch.autograd.profiler import profile

    def before_step(self):
        self._profiler = None
        self._save_tensorboard = False  # which after_step reads, and nobody sets
        if self._enable_predicate(self.trainer):
            on_cuda = self._use_cuda and cuda.is_available()
            self._profiler = profile(use_device="cuda" if on_cuda else None)
            self._profiler.__enter__()

    module.AutogradProfiler.before_step = before_step


def numpy_scalars_refused(module: ModuleType) -> None:
    """torch.load refuses the numpy scalars that checkpoints hold: allow them, and nothing else."""

    @replaces(module.DetectionCheckpointer)
    def _load_file(stock, self, filename):
        from torch.serialization import safe_globals

        with safe_globals(_numpy_globals()):
            return stock(self, filename)


class _SetSampler(random.Random):
    """A random generator that samples from sets too, as Python's did before 3.11."""

    def sample(self, population, k, **options):
        """Sample from `population`, sorted if it is a set."""
        if isinstance(population, set | frozenset):
            population = sorted(population)
        return super().sample(population, k, **options)


def _numpy_globals() -> list:
    """List what a pickled numpy scalar or array is made of, unless of objects."""
    import _codecs

    import numpy as np

    multiarray = (np._core if hasattr(np, "_core") else np.core).multiarray
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"}
    # numpy 2 moved numpy.core to numpy._core: files exist with either name.
    renamed = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ]
    return [*renamed, np.dtype, np.ndarray, _codecs.encode, *dtypes]
