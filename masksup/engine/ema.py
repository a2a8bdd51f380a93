"""Exponential moving average of a network's parameters and floating buffers, in fp32."""

import torch
from torch import Tensor

from masksup.config.schema import Ema


class MovingAverage:
    """avg = d avg + (1 - d) live after every step; `warmup` lowers d at first so that the start is forgotten."""

    def __init__(self, settings: Ema, state: dict[str, Tensor]) -> None:
        """`state`: a network's state_dict, of which integer buffers are left out."""
        self.settings = settings
        self.average = {
            name: value.detach().float().clone() for name, value in state.items() if value.is_floating_point()
        }

    @torch.no_grad()
    def update(self, live: dict[str, Tensor], step: int) -> None:
        """Take in the network's state after the step numbered `step` (from 0)."""
        decay = self.settings.decay
        if self.settings.warmup:
            decay = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), [live[n].float() for n in self.average], 1 - decay)


@torch.no_grad()
def copy_values(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Copy tensors by name into tensors that keep their storage (optimisers and compiled graphs hold on to it)."""
    assert source.keys() == target.keys(), source.keys() ^ target.keys()
    for name, value in source.items():
        target[name].copy_(value)
