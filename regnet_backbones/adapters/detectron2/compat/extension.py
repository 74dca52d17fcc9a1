"""Detectron2 without its compiled extension `detectron2._C`.

Detectron2 0.6 imports the extension wherever one of its operators is defined, so that not even a
plain Mask R-CNN can be imported without it. Here those modules import, deformable convolution (v1,
and v2 with a mask) is torchvision's, COCO evaluation is pycocotools' own, and what remains (rotated
boxes) says what is missing when it is used.
"""

from contextlib import AbstractContextManager
from types import ModuleType

from regnet_backbones.adapters.detectron2.compat.hook import replaces
from regnet_backbones.adapters.detectron2.compat.packages import is_importable, stand_in_modules

EXTENSION = "detectron2._C"
ABSENT = (
    "detectron2 was installed without its compiled extension detectron2._C, which this operator "
    "needs; to use it, build detectron2 from its source with a C++ compiler"
)
# What each module does with the extension: the name its callers look up.
ROTATED_OPERATORS = {
    "detectron2.layers.nms": "nms_rotated",
    "detectron2.layers.roi_align_rotated": "roi_align_rotated",
    "detectron2.layers.rotated_boxes": "pairwise_iou_rotated",
}


class _AbsentExtension(ModuleType):
    """An extension without content."""

    def __getattr__(self, name: str):
        if name.startswith("__"):  # what Python itself asks of a module
            raise AttributeError(name)
        raise ImportError(ABSENT)


def extension_absent() -> AbstractContextManager[None]:
    """Modules import detectron2._C, which was not built: provide one that raises when used."""
    return stand_in_modules(_AbsentExtension(EXTENSION))


def fast_coco_evaluation_absent(module: ModuleType) -> None:
    """COCOeval_opt runs in detectron2._C, so evaluation would fail at its end: use pycocotools'."""
    from pycocotools.cocoeval import COCOeval

    module.COCOeval_opt = COCOeval


def deformable_convolution_needs_cuda_kernel(module: ModuleType) -> None:
    """Deformable convolution has no CPU kernel, and none without detectron2._C."""
    from torchvision.ops import deform_conv2d

    compiled = is_importable(EXTENSION)

    # Both take positional arguments only, as the autograd functions they replace do. torchvision
    # reads the numbers of groups off the shapes of weight and offset.
    @replaces(module)
    def deform_conv(stock, input, offset, weight, stride=1, padding=0, dilation=1, *groups):
        if compiled and input.is_cuda:
            return stock(input, offset, weight, stride, padding, dilation, *groups)
        return deform_conv2d(input, offset, weight, None, stride, padding, dilation)

    @replaces(module)
    def modulated_deform_conv(
        stock, input, offset, mask, weight, bias=None, stride=1, padding=0, dilation=1, *groups
    ):
        if compiled and input.is_cuda:
            return stock(input, offset, mask, weight, bias, stride, padding, dilation, *groups)
        return deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


def rotated_operator_absent(module: ModuleType) -> None:
    """Rotated-box operators fail without saying that detectron2._C was not built."""

    def operator(stock, *args):
        try:
            return stock(*args)
        except AttributeError as error:  # torch.ops.detectron2 has no such operator
            raise ImportError(ABSENT) from error

    operator.__name__ = ROTATED_OPERATORS[module.__name__]
    replaces(module)(operator)
