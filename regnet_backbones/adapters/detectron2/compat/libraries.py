"""Names and behaviour that detectron2 uses and that newer libraries dropped or changed.

numpy 1.24 removed `np.int` and its like, numpy 2.4 `np.in1d` and counts that are Python's numbers,
Pillow 10 `Image.LINEAR`, Python 3.11 sampling from a set; torch removed the profiler's `use_cuda`
and group norms with fewer channels than groups, and reads no numpy scalars from a checkpoint.
"""

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from regnet_backbones.adapters.detectron2.compat.hook import replaces, source_of

GROUP_NORM_GROUPS = 32  # of detectron2's "GN"


def removed_aliases(source: str) -> dict[str, object]:
    """Return what the names meant that a source uses and numpy has no more."""
    import numpy

    known: dict[str, object] = {kind.__name__: kind for kind in (bool, float, int, object, str)}
    known["in1d"] = lambda ar1, ar2, **options: numpy.isin(ar1, ar2, **options).ravel()
    used = set(re.findall(rf"\bnp\.({'|'.join(known)})\b", source))
    # vars and not hasattr, which makes numpy warn about the very names.
    return {name: known[name] for name in used if name not in vars(numpy)}


def numpy_alias_removed(module: ModuleType) -> None:
    """Give the module, and it alone, a numpy that has the aliases it uses."""
    import numpy

    stand_in = ModuleType("numpy")
    vars(stand_in).update(removed_aliases(source_of(module)))
    stand_in.__getattr__ = lambda name: getattr(numpy, name)
    module.np = stand_in


def count_refused_by_json(module: ModuleType) -> None:
    """Write Cityscapes' matches with Python's numbers."""

    def write(content: object, path: str) -> None:
        with open(path, "w") as file:
            json.dump(content, file, default=lambda value: value.item(), sort_keys=True, indent=4)

    module.writeDict2JSON = write


@contextmanager
def pillow_linear_removed() -> Iterator[None]:
    """Call bilinear interpolation LINEAR too, for a default argument."""
    from PIL import Image

    Image.LINEAR = Image.BILINEAR
    try:
        yield
    finally:
        del Image.LINEAR


def tiff_turned_twice(module: ModuleType) -> None:
    """Load a TIFF first: Pillow turns it then, and takes the orientation out of its EXIF data."""

    @replaces(module)
    def _apply_exif_orientation(stock, image):
        if image.format == "TIFF":
            image.load()
        return stock(image)


def sampling_from_a_set_removed(module: ModuleType) -> None:
    """Draw replacements for unusable elements from the sorted candidates."""

    @replaces(module.MapDataset)
    def __init__(stock, self, dataset, map_func):  # noqa: N807
        stock(self, dataset, map_func)
        seeded = _SetSampler()
        seeded.setstate(self._rng.getstate())
        self._rng = seeded


def group_norm_with_one_channel_refused(module: ModuleType) -> None:
    """Probe "GN" with a number of channels that it can have."""

    @replaces(module)
    def get_norm(stock, norm, out_channels):
        probing = isinstance(norm, str) and norm == "GN" and out_channels == 1
        return stock(norm, GROUP_NORM_GROUPS if probing else out_channels)


def profiler_use_cuda_removed(module: ModuleType) -> None:
    """Name the device to profile instead."""
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
    """Load checkpoints with numpy's scalars and arrays allowed, and still nothing else."""

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
