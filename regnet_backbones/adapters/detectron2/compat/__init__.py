"""What detectron2 needs on today's Python, torch, numpy and Pillow, and without a compiler.

`install()` puts a finder in front of `sys.meta_path` that acts on exactly the modules named in
`table.FIXES`, during their import or right after it. Nothing is changed outside detectron2 and the
packages that only it evaluates with (lvis, cityscapesscripts); without an installed `panopticapi`
processes that use detectron2 import ours by that name. Each row looks for its cause in the text of
the module, never at a version, because detectron2 0.6 and upstream main both call themselves "0.6".

Only the standard library is imported before detectron2 is. Detectron2:
https://github.com/facebookresearch/detectron2 (0.6 is commit d1e04565).
"""

from regnet_backbones.adapters.detectron2.compat.hook import AppliedFix, FixFinder
from regnet_backbones.adapters.detectron2.compat.table import FIXES

__all__ = ["AppliedFix", "applied", "install"]

_FINDER = FixFinder(FIXES)


def install() -> None:
    """Fix the detectron2 modules that are imported, and from now on each one as it is imported."""
    _FINDER.install()


def applied() -> tuple[AppliedFix, ...]:
    """Return the fixes applied so far in this process, in order: worth a line in a bug report."""
    return _FINDER.applied
