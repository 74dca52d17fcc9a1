"""Pillow's bilinear resize in torch, for images whose size is known when an exported file runs.

When it makes an image smaller, Pillow (`ImagingResample`) smooths with a triangle as wide as the
step between pixels, along rows and then along columns, and rounds to grey levels after each. Newer
versions choose the order, which can change a value by one. Both are matrix products; their weights
follow from the sizes, and so a graph can compute them.
"""

import torch

# Added before rounding down: Pillow rounds halves up, and so each runtime does where its sums are
# a little below a half.
HALF = 0.5 + 2**-12


def size_of(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return height and width of an image (..., H, W) as tensors, which a trace follows."""
    height, width = torch._shape_as_tensor(image)[-2:].unbind()
    return height, width


def shortest_edge_size(
    height: torch.Tensor, width: torch.Tensor, *, min_size: int, max_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the size that detectron2's `ResizeShortestEdge` gives an image."""
    height, width = height.double(), width.double()
    # As tensors: torch divides a number by a tensor less exactly.
    shorter, longer = (torch.full_like(height, size) for size in (min_size, max_size))
    scale = shorter / torch.minimum(height, width)
    new_height = torch.where(height < width, shorter, scale * height)
    new_width = torch.where(height < width, scale * width, shorter)
    # 1.0 exactly if the longer side is not too long.
    scale = (longer / torch.maximum(new_height, new_width)).clamp(max=1.0)
    new_height, new_width = (side * scale + 0.5 for side in (new_height, new_width))
    return new_height.floor().long(), new_width.floor().long()


def resize(image: torch.Tensor, height: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Resize an image (C, H, W) of 0 to 255 as Pillow does with `BILINEAR`, within a grey level."""
    old_height, old_width = size_of(image)
    rows = torch.matmul(image, _weights(old_width, width).transpose(0, 1))
    rows = (rows + HALF).floor()
    return (torch.matmul(_weights(old_height, height), rows) + HALF).floor()


def _weights(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return what each of `old` pixels adds to each of `new` ones, (new, old)."""
    step = old.double() / new.double()
    distances = (_middles(old)[None] - (_middles(new) * step)[:, None]).abs()
    triangles = (1.0 - distances / step.clamp(min=1.0)).clamp(min=0.0)
    return (triangles / triangles.sum(1, keepdim=True)).float()


def _middles(count: torch.Tensor) -> torch.Tensor:
    """Return where the middles of pixels are, in pixels from the edge."""
    return torch.arange(count).double() + 0.5  # type: ignore[call-overload]  # a trace follows it
