"""A map of every class, of any head: class activation, attention, or gradients for a head that has neither."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from masksup.models.heads.maps import AttentionHead, MapHead, cam
from masksup.models.heads.precision import at_least_float32

# Shapes: B images, D feature width, H x W = P positions, C classes.

Kind = Literal["activation", "attention", "gradient"]


@dataclass(frozen=True)
class ClassMaps:
    """What a head sees. `values_BCHW`, float32: the classifier's score at each position ("activation"), the share of
    the attention that goes there ("attention", of sum 1), or what the position adds to the logit to first order
    ("gradient")."""

    kind: Kind
    values_BCHW: Tensor

    def shown(self) -> Tensor:
        """The maps in [0, 1], each in its own range: what speaks against a class is 0, as is a map without anything
        that speaks for it. Attention, which is nowhere negative, is stretched from its lowest to its highest."""
        if self.kind != "attention":
            return cam(self.values_BCHW)
        low = self.values_BCHW.amin((2, 3), keepdim=True)
        reach = self.values_BCHW.amax((2, 3), keepdim=True) - low
        return torch.where(reach > 0, (self.values_BCHW - low) / reach.clamp(min=torch.finfo(reach.dtype).tiny), 0.0)

    def concentration(self) -> Tensor | None:
        """How many times the even share the highest position gets, BC; None for maps that are no shares."""
        if self.kind != "attention":
            return None
        return self.values_BCHW.amax((2, 3)) * self.values_BCHW[0, 0].numel()


def class_maps(head: nn.Module, x_BDHW: Tensor) -> ClassMaps:
    """The maps of a head in evaluation mode, from the features it was given.

    `linear` and `csi`: the classifier at every position (CAM, methods.md 5.1); `csra`, `attentive_probe`,
    `ml_decoder`, `query2label`: attention. Any other head: gradient times features, summed over the channels, which for
    a linear head is CAM without the bias, divided by the number of positions.
    """
    assert not head.training, "maps are those of the evaluated network"
    kind = map_kind(head)
    if isinstance(head, MapHead):
        return ClassMaps(kind, head.maps(x_BDHW).detach())
    if isinstance(head, AttentionHead):
        return ClassMaps(kind, head.attention_maps(x_BDHW).detach())
    return ClassMaps(kind, _gradient_maps(head, x_BDHW))


def map_kind(head: nn.Module) -> Kind:
    """What the maps of a head show."""
    return "activation" if isinstance(head, MapHead) else "attention" if isinstance(head, AttentionHead) else "gradient"


def _gradient_maps(head: nn.Module, x_BDHW: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x_BDHW = at_least_float32(x_BDHW).clone().detach().requires_grad_()
        logits_BC = head(x_BDHW)
        maps = []
        for c in range(logits_BC.shape[1]):
            (slope_BDHW,) = torch.autograd.grad(logits_BC[:, c].sum(), x_BDHW, retain_graph=True)
            maps.append((slope_BDHW * x_BDHW).sum(1).detach())
    return torch.stack(maps, 1)
