"""The last stage of a residual network without its stride: a feature map of twice the side, for Puzzle-CAM, OASS."""

from typing import Any

from timm.models.resnest import ResNestBottleneck
from torch import nn

from masksup.errors import UserError


def unstride_last_stage(model: nn.Module, name: str) -> None:
    """Give the first block of timm's `layer4` stride 1, in place, without dilation; methods.md 5.1.

    timm's own `output_stride=16` dilates the stage instead, which computes other numbers with the same weights.
    The weights keep their names and shapes. A ResNeSt is the exception, as its own code builds it: dilation 2 from the
    stage's second block on. Raises UserError for a backbone without such a stage.
    """
    stage = getattr(model, "layer4", None)
    blocks: list[Any] = list(stage) if isinstance(stage, nn.Sequential) else []
    strided = [(path, module) for block in blocks[:1] for path, module in block.named_modules() if _is_strided(module)]
    if not strided:
        raise UserError(
            f"model.last_stage_stride: {name} has no last residual stage (layer4) with a stride, "
            "expected a ResNet, or the key absent"
        )
    block = blocks[0]
    for path, module in strided:
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d) and module.kernel_size == 2:
            block.set_submodule(path, nn.Identity())  # the shortcut's; timm has none either where nothing is strided
        elif isinstance(block, ResNestBottleneck) and isinstance(module, nn.AvgPool2d):
            module.stride = 1  # it averages 3 x 3 positions
        else:
            raise UserError(
                f"model.last_stage_stride: the last stage of {name} strides by a {type(module).__name__} "
                f"(layer4.0.{path}), expected convolutions and average pools of 2, or the key absent"
            )
    if isinstance(block, ResNestBottleneck):
        for later in blocks[1:]:
            later.conv2.conv.dilation = later.conv2.conv.padding = (2, 2)


def _is_strided(module: nn.Module) -> bool:
    # A block keeps its stride as a number of its own, which nothing reads.
    layer = not any(True for _ in module.children())
    return layer and getattr(module, "stride", 1) not in (1, (1,), (1, 1), None)
