"""Names and behaviour that detectron2 uses and that newer libraries dropped.

numpy 1.24 removed `np.int` and its like, numpy 2.4 `np.in1d` and counts that are Python's numbers,
Pillow 10 `Image.LINEAR`, Python 3.11 sampling from a set, setuptools 81 `pkg_resources`; torch
removed Caffe2, the profiler's `use_cuda`, and group norms with fewer channels than groups.
"""

import importlib.util
import inspect
import json
import os
import random
import re
from contextlib import AbstractContextManager
from types import ModuleType

from regnet_backbones.adapters.detectron2.compat.stand_ins import (
    is_importable,
    module_with,
    stand_in_attribute,
    stand_in_modules,
)

NUMPY_ALIASES = {"bool": bool, "float": float, "int": int, "object": object, "str": str}
GROUP_NORM_GROUPS = 32  # of detectron2's "GN"


def uses_removed_numpy_alias(module: ModuleType) -> bool:
    """Tell whether the module says `np.int` or the like, and numpy has it no more."""
    return bool(_removed_aliases(module))


def numpy_alias_removed(module: ModuleType) -> None:
    """Give the module, and it alone, a numpy that has the aliases it uses."""
    module.np = _NumpyWithAliases(_removed_aliases(module))


def counts_are_numpys(_module: ModuleType) -> bool:
    """Tell whether numpy counts in numbers of its own, which json cannot write."""
    import numpy

    return not isinstance(numpy.count_nonzero(numpy.ones(1)), int)


def count_refused_by_json(module: ModuleType) -> None:
    """Write Cityscapes' matches with Python's numbers."""

    def write(content: object, path: str) -> None:
        with open(path, "w") as file:
            json.dump(content, file, default=lambda value: value.item(), sort_keys=True, indent=4)

    module.writeDict2JSON = write


def uses_removed_pillow_linear(source: str) -> bool:
    """Tell whether `source` says `Image.LINEAR`, and Pillow has it no more."""
    from PIL import Image

    return "Image.LINEAR" in source and not hasattr(Image, "LINEAR")


def pillow_linear_removed() -> AbstractContextManager[None]:
    """Call bilinear interpolation LINEAR too, for a default argument."""
    from PIL import Image

    return stand_in_attribute(Image, "LINEAR", Image.BILINEAR)


def samples_from_a_set(module: ModuleType) -> bool:
    """Tell whether a dataset fails when it has to replace an element that cannot be used."""
    dataset = module.MapDataset([0, 1], _none_for_zero)
    try:
        return dataset[0] != 1
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
    """Tell whether a RetinaNet head with group norm cannot be built."""
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
    """Tell whether torch's autograd profiler takes no `use_cuda`."""
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


def imports_absent_pkg_resources(source: str) -> bool:
    """Tell whether `source` imports `pkg_resources`, and setuptools has it no more."""
    return "import pkg_resources" in source and not is_importable("pkg_resources")


def pkg_resources_absent() -> AbstractContextManager[None]:
    """Provide the one function of it that is used."""
    return stand_in_modules(module_with("pkg_resources", resource_filename=_resource_filename))


def imports_absent_caffe2(source: str) -> bool:
    """Tell whether `source` imports its Caffe2 half unconditionally, and there is no Caffe2."""
    unconditional = re.search(r"^from \.api import", source, re.MULTILINE) is not None
    return unconditional and not is_importable("caffe2.python")


def caffe2_absent() -> AbstractContextManager[None]:
    """Leave the Caffe2 half out: tracing and scripting need none of it."""
    return stand_in_modules(module_with("detectron2.export.api", __all__=[]))


class _NumpyWithAliases(ModuleType):
    """numpy with a few more names."""

    def __init__(self, aliases: dict[str, type]):
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
    import numpy

    known = NUMPY_ALIASES | {"in1d": _in1d}
    used = set(re.findall(rf"\bnp\.({'|'.join(known)})\b", inspect.getsource(module)))
    # vars and not hasattr, which makes numpy warn about the very names.
    return {name: known[name] for name in used if name not in vars(numpy)}


def _in1d(ar1, ar2, **options):
    """Do what numpy's function of that name did."""
    import numpy

    return numpy.isin(ar1, ar2, **options).ravel()


def _none_for_zero(element: int) -> int | None:
    return element or None


def _resource_filename(package: str, resource: str) -> str:
    spec = importlib.util.find_spec(package)
    return os.path.join(spec.submodule_search_locations[0], resource)
