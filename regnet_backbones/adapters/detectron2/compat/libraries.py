"""Names and behaviour that detectron2 uses and that newer libraries dropped or changed.

numpy 1.24 removed `np.int` and its like, numpy 2.4 `np.in1d` and counts that are Python's numbers,
Pillow 10 `Image.LINEAR`, Python 3.11 sampling from a set; torch removed the profiler's `use_cuda`
and group norms with fewer channels than groups, and reads no numpy scalars from a checkpoint.
"""

import functools
import inspect
import io
import json
import pickle
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

GROUP_NORM_GROUPS = 32  # of detectron2's "GN"


def uses_removed_numpy_alias(module: ModuleType) -> bool:
    """Return whether the module says `np.int` or the like, and numpy has it no more."""
    return bool(_removed_aliases(module))


def numpy_alias_removed(module: ModuleType) -> None:
    """Give the module, and it alone, a numpy that has the aliases it uses."""
    module.np = _NumpyWithAliases(_removed_aliases(module))


def counts_are_numpys(_module: ModuleType) -> bool:
    """Return whether numpy counts in numbers of its own, which json cannot write."""
    import numpy

    return not isinstance(numpy.count_nonzero(numpy.ones(1)), int)


def count_refused_by_json(module: ModuleType) -> None:
    """Write Cityscapes' matches with Python's numbers."""

    def write(content: object, path: str) -> None:
        with open(path, "w") as file:
            json.dump(content, file, default=lambda value: value.item(), sort_keys=True, indent=4)

    module.writeDict2JSON = write


def uses_removed_pillow_linear(source: str) -> bool:
    """Return whether `source` says `Image.LINEAR`, and Pillow has it no more."""
    from PIL import Image

    return "Image.LINEAR" in source and not hasattr(Image, "LINEAR")


@contextmanager
def pillow_linear_removed() -> Iterator[None]:
    """Call bilinear interpolation LINEAR too, for a default argument."""
    from PIL import Image

    Image.LINEAR = Image.BILINEAR
    try:
        yield
    finally:
        del Image.LINEAR


def turns_tiff_twice(module: ModuleType) -> bool:
    """Return whether a TIFF of 2x1 pixels that is to be turned by 90 degrees keeps its size."""
    from PIL import ExifTags, Image

    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (2, 1)).save(file, "TIFF", exif=exif)
    return module._apply_exif_orientation(Image.open(file)).size == (2, 1)


def tiff_turned_twice(module: ModuleType) -> None:
    """Load a TIFF first: Pillow turns it then, and takes the orientation out of its EXIF data."""
    stock = module._apply_exif_orientation

    @functools.wraps(stock)
    def load_tiff_first(image):
        if image.format == "TIFF":
            image.load()
        return stock(image)

    module._apply_exif_orientation = load_tiff_first


def samples_from_a_set(module: ModuleType) -> bool:
    """Return whether a dataset fails when it has to replace an element that cannot be used."""
    try:
        return module.MapDataset([0, 1], lambda element: element or None)[0] != 1
    except TypeError:
        return True


def sampling_from_a_set_removed(module: ModuleType) -> None:
    """Draw replacements for unusable elements from the sorted candidates."""
    stock = module.MapDataset.__init__

    def __init__(self, dataset, map_func):  # noqa: N807
        stock(self, dataset, map_func)
        seeded = _SetSampler()
        seeded.setstate(self._rng.getstate())
        self._rng = seeded

    module.MapDataset.__init__ = __init__


def probes_norm_with_one_channel(module: ModuleType) -> bool:
    """Return whether a RetinaNet head with group norm cannot be built."""
    import torch
    from detectron2.layers import ShapeSpec

    shape = [ShapeSpec(channels=GROUP_NORM_GROUPS)]
    try:
        with torch.device("meta"):  # no memory, no random numbers
            module.RetinaNetHead(
                input_shape=shape, num_classes=1, num_anchors=1, conv_dims=[32], norm="GN"
            )
    except ValueError:
        return True
    return False


def group_norm_with_one_channel_refused(module: ModuleType) -> None:
    """Probe "GN" with a number of channels that it can have."""
    stock = module.get_norm

    def get_norm(norm, out_channels):
        probing = isinstance(norm, str) and norm == "GN" and out_channels == 1
        return stock(norm, GROUP_NORM_GROUPS if probing else out_channels)

    module.get_norm = get_norm


def profiles_with_use_cuda(_module: ModuleType) -> bool:
    """Return whether torch's autograd profiler takes no `use_cuda`."""
    from torch.autograd.profiler import profile

    return "use_cuda" not in inspect.signature(profile.__init__).parameters


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


def refuses_numpy_scalars(_module: ModuleType) -> bool:
    """Return whether torch.load, as detectron2 calls it, refuses a numpy scalar."""
    import numpy as np
    import torch

    file = io.BytesIO()
    torch.save(np.float64(1), file)
    file.seek(0)
    try:
        torch.load(file)
    except pickle.UnpicklingError:
        return True
    return False


def numpy_scalars_refused(module: ModuleType) -> None:
    """Load checkpoints with numpy's scalars and arrays allowed, and still nothing else."""
    stock = module.DetectionCheckpointer._load_file

    @functools.wraps(stock)
    def _load_file(self, filename):
        from torch.serialization import safe_globals

        with safe_globals(_numpy_globals()):
            return stock(self, filename)

    module.DetectionCheckpointer._load_file = _load_file


class _NumpyWithAliases(ModuleType):
    """numpy with a few more names."""

    def __init__(self, aliases: dict[str, object]):
        super().__init__("numpy")
        vars(self).update(aliases)

    def __getattr__(self, name: str):
        import numpy

        return getattr(numpy, name)


class _SetSampler(random.Random):
    """A random generator that samples from sets too, as Python's did before 3.11."""

    def sample(self, population, k, **options):
        """Sample from `population`, sorted if it is a set."""
        if isinstance(population, set | frozenset):
            population = sorted(population)
        return super().sample(population, k, **options)


def _removed_aliases(module: ModuleType) -> dict[str, object]:
    """Return what the names meant that the module uses and numpy has no more."""
    import numpy

    known: dict[str, object] = {kind.__name__: kind for kind in (bool, float, int, object, str)}
    known["in1d"] = lambda ar1, ar2, **options: numpy.isin(ar1, ar2, **options).ravel()
    used = set(re.findall(rf"\bnp\.({'|'.join(known)})\b", inspect.getsource(module)))
    # vars and not hasattr, which makes numpy warn about the very names.
    return {name: known[name] for name in used if name not in vars(numpy)}


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
