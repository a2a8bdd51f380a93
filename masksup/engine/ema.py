"""Exponential moving average of a network's parameters and floating buffers, in fp32."""

import torch
from torch import Tensor, nn

from masksup.config import Ema


class MovingAverage:
    """avg = d avg + (1 - d) live after every step; `warmup` lowers d at first so that the start is forgotten."""

    def __init__(self, settings: Ema, network: nn.Module) -> None:
        self.settings = settings
        self.average = {name: value.detach().float().clone() for name, value in _averaged(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after the step numbered `step` (from 0)."""
        decay = self.settings.decay
        if self.settings.warmup:
            decay = min(decay, (1 + step) / (10 + step))
        live = _averaged(network)
        torch._foreach_lerp_(list(self.average.values()), [live[n].float() for n in self.average], 1 - decay)

    def copy_to(self, network: nn.Module) -> None:
        """Overwrite the network's parameters and floating buffers with the average."""
        copy_values(self.average, _averaged(network))


def _averaged(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict(keep_vars=False).items() if value.is_floating_point()}


@torch.no_grad()
def copy_values(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Copy tensors by name into tensors that keep their storage (optimisers and compiled graphs hold on to it)."""
    assert source.keys() == target.keys(), source.keys() ^ target.keys()
    for name, value in source.items():
        target[name].copy_(value)
