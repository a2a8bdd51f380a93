"""The last stage of a residual network without its stride: a feature map of twice the side, for Puzzle-CAM, OASS."""

from torch import nn

from masksup.errors import UserError


def unstride_last_stage(model: nn.Module, name: str) -> None:
    """Give the first block of timm's `layer4` stride 1, in place, without dilation; methods.md 5.1.

    timm's own `output_stride=16` dilates the stage instead, which computes other numbers with the same weights.
    The weights keep their names and shapes. Raises UserError for a backbone without such a stage.
    """
    stage = getattr(model, "layer4", None)
    block = stage[0] if isinstance(stage, nn.Sequential) and len(stage) else None
    strided = [] if block is None else [(path, m) for path, m in block.named_modules() if _is_strided(m)]
    if block is None or not strided:
        raise UserError(
            f"model.last_stage_stride: {name} has no last residual stage (layer4) with a stride, "
            "expected a ResNet, or the key absent"
        )
    for path, module in strided:
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d) and module.kernel_size == 2:
            block.set_submodule(path, nn.Identity())  # the shortcut's; timm has none either where nothing is strided
        else:
            raise UserError(
                f"model.last_stage_stride: the last stage of {name} strides by a {type(module).__name__} "
                f"(layer4.0.{path}), expected convolutions and average pools of 2, or the key absent"
            )


def _is_strided(module: nn.Module) -> bool:
    # A block keeps its stride as a number of its own, which nothing reads.
    layer = not any(True for _ in module.children())
    return layer and getattr(module, "stride", 1) not in (1, (1,), (1, 1), None)
