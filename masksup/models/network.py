"""A whole network: normalisation, backbone, head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from masksup.config.components import HEADS
from masksup.config.schema import ModelSettings
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


def build_network(model: ModelSettings, classes: int) -> Network:
    """A network with random weights (masksup.models.weights fills the backbone, masksup.models.lora adapts it).

    `mean: card` and `std: card` are those of the backbone's own weights. Raises UserError naming the `model.` key that
    cannot be met.
    """
    trunk = build_backbone(
        model.backbone, model.size, grad_checkpointing=model.grad_checkpointing, options=model.backbone_options,
        last_stage_stride=model.last_stage_stride, octaves=model.octaves,
    )  # fmt: skip
    head = HEADS.resolve(model.head.name)(trunk.width, classes, **model.head.options)
    mean = trunk.mean if model.mean == "card" else model.mean
    std = trunk.std if model.std == "card" else model.std
    return Network(trunk, head, mean, std)
