"""Batch norm's running statistics follow the micro-batches of a step in their order, whichever ranks saw them.

Each micro-batch moves statistics that begin at zero. A layer of momentum m that is called k times in it leaves them at
B, and run <- (1 - m)^k run + B is what the k calls would have made of the running statistics before.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class RunningStatistics:
    """Of the layers of a module that are in training mode; those that are frozen keep theirs."""

    def __init__(self, module: nn.Module) -> None:
        norms = [m for m in module.modules() if isinstance(m, _NormBase)]
        self.layers = [m for m in norms if m.training and m.running_mean is not None]
        self._moving = [value for m in self.layers for value in (m.running_mean, m.running_var) if value is not None]
        self._counts = [m.num_batches_tracked for m in self.layers if m.num_batches_tracked is not None]
        self._sizes = [value.numel() for value in self._moving]
        assert len(self._moving) == 2 * len(self._counts) == 2 * len(self.layers)
        if self.layers:
            device = self._moving[0].device
            kept = [1.0 if m.momentum is None else 1.0 - m.momentum for m in self.layers]
            self._kept_L = torch.tensor(kept, device=device)
            self._averages_L = torch.tensor([m.momentum is None for m in self.layers], device=device)
            layers = [torch.full((size,), at // 2) for at, size in enumerate(self._sizes)]
            self._layer_S = torch.cat(layers).to(device)

    @property
    def width(self) -> int:
        """Length of what one micro-batch leaves."""
        return sum(self._sizes) + len(self._counts)

    def begin(self) -> None:
        """Remember the statistics before a step."""
        self._before_S = self._values()
        self._before_L = self._counted()

    @torch.no_grad()
    def clear(self) -> None:
        """Let the forward pass of the next micro-batch begin at zero."""
        torch._foreach_zero_(self._moving)
        torch._foreach_zero_(self._counts)

    def row(self) -> Tensor:
        """What the forward pass has left: the statistics, and how often each layer was called (float32 W)."""
        return torch.cat([self._values(), self._counted()])

    @torch.no_grad()
    def apply(self, rows_VW: Tensor) -> None:
        """Move the statistics from before the step by the micro-batches in their order.

        What is not finite moves nothing: such a step is not applied either.
        """
        run_S, count_L = self._before_S, self._before_L
        for row in rows_VW:
            moved_S, called_L = row[: len(run_S)], row[len(run_S) :]
            keep_L, take_L = self._kept_L**called_L, torch.ones_like(called_L)
            share_L = called_L / (count_L + called_L).clamp(min=1)  # the mean of all calls, where there is no momentum
            keep_L = torch.where(self._averages_L, 1 - share_L, keep_L)
            take_L = torch.where(self._averages_L, share_L, take_L)
            next_S = run_S * keep_L[self._layer_S] + moved_S * take_L[self._layer_S]
            run_S = torch.where(torch.isfinite(moved_S), next_S, run_S)
            count_L = count_L + called_L
        torch._foreach_copy_(self._moving, list(torch.split(run_S, self._sizes)))
        for count, value in zip(self._counts, count_L, strict=True):
            count.copy_(value)

    def _values(self) -> Tensor:
        return torch.cat([value.detach().reshape(-1) for value in self._moving])

    def _counted(self) -> Tensor:
        return torch.stack([count.detach().reshape(()) for count in self._counts]).float()
