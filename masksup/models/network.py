"""A whole network: normalisation, backbone, head."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from masksup.config.components import HEADS
from masksup.errors import UserError
from masksup.models.backbones import ADAPTERS, Backbone, build_backbone

# Shapes: B images, 3 channels, S x S pixels, D feature width, H x W positions, C classes.


class Network(nn.Module):
    """`backbone` and `head` are modules of their own, so that an optimiser can treat them apart.

    The normalisation is part of the network: images go in as they were decoded. `mean` and `std` are buffers
    that are not saved with the weights; they come from the configuration, which travels with a checkpoint.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def kept_state(self) -> dict[str, Tensor]:
        """The part of the state that training moves, and a checkpoint holds: all of it, or, of a backbone that is
        adapted by LoRA, the additions, and the head."""
        state = self.state_dict()
        if not self.backbone.adapted:
            return state
        return {k: v for k, v in state.items() if not k.startswith("backbone.") or k.endswith(ADAPTERS)}

    def normalize(self, images_B3SS: Tensor) -> Tensor:
        """uint8 pixels 0..255, or float pixels 0..1, to what the backbone expects: (pixel - mean) / std.

        Computed in float32, given in the precision of the network (bfloat16 where all of it was converted).
        """
        pixels = images_B3SS.float() / 255 if images_B3SS.dtype == torch.uint8 else images_B3SS.float()
        return ((pixels - self.mean.float()) / self.std.float()).to(self.mean.dtype)

    def features(self, images_B3SS: Tensor) -> Tensor:
        """Images (uint8 0..255 or float 0..1) to the feature map x_BDHW."""
        x_BDHW: Tensor = self.backbone(self.normalize(images_B3SS))
        return x_BDHW

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Images (uint8 0..255 or float 0..1) to logits_BC in float32."""
        logits_BC: Tensor = self.head(self.features(images_B3SS))
        return logits_BC


def build_network(
    backbone: str,
    size: int,
    head_name: str,
    head_options: dict[str, Any],
    classes: int,
    mean: Sequence[float] | Literal["card"] = "card",
    std: Sequence[float] | Literal["card"] = "card",
    grad_checkpointing: bool = False,
    backbone_options: dict[str, Any] | None = None,
    last_stage_stride: Literal[1] | None = None,
) -> Network:
    """A network with random weights (masksup.models.weights fills the backbone).

    `size`: side of its square input in pixels. `mean`, `std`: three values for pixels in 0..1, or "card" for
    those of the backbone's own weights. Raises UserError naming the `model.` key that cannot be met.
    """
    trunk = build_backbone(
        backbone, size, grad_checkpointing=grad_checkpointing, options=backbone_options or {},
        last_stage_stride=last_stage_stride,
    )  # fmt: skip
    head = HEADS.resolve(head_name)(trunk.width, classes, **head_options)
    return Network(
        trunk,
        head,
        trunk.mean if mean == "card" else _three(mean, "mean"),
        trunk.std if std == "card" else _three(std, "std"),
    )


def _three(values: Sequence[float], key: str) -> list[float]:
    found = [float(value) for value in values]
    if len(found) != 3 or (key == "std" and min(found) <= 0):
        above = " above 0" if key == "std" else ""
        raise UserError(f"model.{key}: found {found}, expected three values{above}, or 'card'")
    return found
