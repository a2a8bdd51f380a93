"""Blur pooling (TResNet, resnetblur) whose gradient has one order of summation on a GPU.

torch's reflection padding has no deterministic backward pass there. Rows and columns put beside the map give the same
numbers, and their backward pass adds whole slices.
"""

from typing import cast

from timm.layers.blur_pool import BlurPool2d
from torch import Tensor, cat, nn
from torch.nn import functional as F


class ReflectedBlurPool(BlurPool2d):
    """timm's layer, with its buffers and options, for `pad_mode: reflect`."""

    filt: Tensor

    def forward(self, x_BDHW: Tensor) -> Tensor:
        groups = x_BDHW.shape[1]
        weight = self.filt.expand(groups, 1, self.filt_size, self.filt_size)
        left, _, top, _ = cast("list[int]", self.padding)
        padded = reflect(reflect(x_BDHW, left, 3), top, 2)
        return F.conv2d(padded, weight, stride=self.stride, groups=groups)


def reflect(x: Tensor, width: int, dim: int) -> Tensor:
    """`x` with `width` slices mirrored at either end of `dim`, without the border itself; needs more than `width`."""
    length = x.shape[dim]
    if width >= length:
        raise ValueError(f"a map of {length} positions cannot be padded by {width} of its own")
    before = [x.narrow(dim, place, 1) for place in range(width, 0, -1)]
    after = [x.narrow(dim, length - 1 - place, 1) for place in range(1, width + 1)]
    return cat([*before, x, *after], dim)


def reflect_by_slices(model: nn.Module) -> None:
    """Let every blur pooling of `model` that pads by reflection do so by slices."""
    for layer in model.modules():
        if type(layer) is BlurPool2d and layer.pad_mode == "reflect":
            layer.__class__ = ReflectedBlurPool
