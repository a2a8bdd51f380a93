"""`parallel.sum: tree`: a step has the same bits whatever the number of ranks.

Gradients are added in the tree of `tree.py`, and running statistics follow the micro-batches in their order.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from masksup.base.place import Place
from masksup.config.schema import Parallel
from masksup.data.sampler import Share
from masksup.engine.parallel.buckets import buckets
from masksup.engine.parallel.exchange import in_order
from masksup.engine.parallel.overlap import Overlap
from masksup.engine.parallel.replicas import Replicas
from masksup.engine.parallel.tree import Fold, Gradients
from masksup.engine.precision import autocast
from masksup.engine.running_statistics import RunningStatistics
from masksup.methods.method import Method
from masksup.runtime.join import NO_LIMIT


class Ordered(Replicas):
    """A rank, or the only process, that adds as the tree says."""

    def __init__(
        self, method: Method, optimizer: torch.optim.Optimizer, dtype: torch.dtype, clip: float,
        place: Place, parallel: Parallel,
    ) -> None:  # fmt: skip
        super().__init__(method, optimizer, dtype, clip)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.statistics = RunningStatistics(method)
        self._overlap: Overlap | None = None
        self._words: dist.ProcessGroup | None = None
        if place.world > 1:
            # Gradients come from the last layer to the first; the optimiser's groups are in another order.
            number = {id(parameter): at for at, parameter in enumerate(self.parameters)}
            order = [number[id(parameter)] for parameter in method.parameters() if id(parameter) in number]
            self._overlap = Overlap(buckets(self.parameters, order, int(parallel.bucket_mb * 2**20 / 4), place.world))
            if self.skipped.is_cuda:  # what the host has to know goes past NCCL: it need not wait for the GPU
                self._words = dist.new_group(backend="gloo", timeout=NO_LIMIT)  # type: ignore[assignment]

    def begin(self, share: Share) -> None:
        self._share, self._done = share, 0
        self.fold = Fold(share.count)
        self._rows: list[Tensor] = []
        if self.statistics.layers:
            self.statistics.begin()

    def forward(self, batch: dict[str, Tensor], last: bool) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        if self.statistics.layers:
            self.statistics.clear()
        with autocast(self.device, self.dtype):
            loss, logs = self.method(batch)
        if self.statistics.layers:  # before the backward pass, in which checkpointed layers compute a second time
            self._rows.append(self.statistics.row())
        return loss, logs

    def backward(self, loss: Tensor, last: bool) -> None:
        index = self._share.indices[self._done]
        self._done += 1
        if last and self._overlap is not None:
            self._overlap.await_last(self.fold, index)
            super().backward(loss, last)
            return
        super().backward(loss, last)
        self.fold.add((index, index + 1), [p.grad for p in self.parameters])
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> Tensor:
        self.scaler.scale(self.skipped)  # it makes the scale when first asked, and a rank may have no micro-batch
        gradients = self._gradients()
        if self.statistics.layers:
            rows = torch.stack(self._rows) if self._rows else self.skipped.new_empty(0, self.statistics.width)
            self.statistics.apply(rows if self._overlap is None else in_order(rows, self._share.count))
        self.fold = Fold(0)  # its tensors are no longer needed
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return super().step()

    def _gradients(self) -> Gradients:
        """Of the step. Collective. An optimiser treats a gradient of zero otherwise than none at all."""
        if self._overlap is None:
            ((_, gradients),) = self.fold.nodes
            return gradients
        sums, own = self._overlap.finish(self.fold)
        had = torch.tensor(own, dtype=torch.uint8)
        dist.all_reduce(had, dist.ReduceOp.MAX, group=self._words)
        return [gradient if here else None for gradient, here in zip(sums, had.tolist(), strict=True)]
