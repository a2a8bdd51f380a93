"""Buckets: the gradients of some parameters as one flat tensor, which crosses the network at once."""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from masksup.engine.parallel.tree import Gradients

_ALIGNED = 128
"""Elements between the starts of gradients in a bucket: reductions on GPUs go by the alignment of what they read."""


@dataclass(frozen=True)
class Bucket:
    """Some of the parameters, whose gradients cross the network as one flat tensor."""

    parameters: dict[int, nn.Parameter]
    """By their number."""
    starts: tuple[int, ...]
    length: int

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def empty(self) -> Tensor:
        return torch.empty(self.length, device=self.device)

    def flat(self, gradients: Gradients) -> Tensor:
        """The gradients of these parameters. Where there is none stands -0.0, which changes nothing it is added to."""
        flat = self.empty()
        present, found = [], []
        for (_, place), gradient in zip(self.gradients(flat), gradients, strict=True):
            if gradient is None:
                place.fill_(-0.0)
            else:
                present.append(place)
                found.append(gradient)
        if present:
            torch._foreach_copy_(present, found)
        return flat

    def gradients(self, flat: Tensor) -> list[tuple[int, Tensor]]:
        """Views of a flat tensor with the parameters' shapes and strides, by number."""
        return [
            (at, flat.as_strided(p.shape, p.stride(), flat.storage_offset() + start))
            for (at, p), start in zip(self.parameters.items(), self.starts, strict=True)
        ]


def buckets(parameters: list[nn.Parameter], order: list[int], elements: int, world: int) -> list[Bucket]:
    """Buckets of at least so many elements each but the last. `order`: the numbers of the parameters in the network's
    order, at whose end the first gradients come."""
    found: list[Bucket] = []
    waiting: dict[int, nn.Parameter] = {}
    for at in reversed(order):
        waiting[at] = parameters[at]
        if sum(p.numel() for p in waiting.values()) >= elements or at == order[0]:
            room = [-(-p.numel() // _ALIGNED) * _ALIGNED for p in waiting.values()]
            starts = (0, *accumulate(room))
            multiple = _ALIGNED * world
            found.append(Bucket(waiting, starts[:-1], -(-starts[-1] // multiple) * multiple))
            waiting = {}
    return found
