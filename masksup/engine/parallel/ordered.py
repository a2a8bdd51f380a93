"""`parallel.sum: tree`: a step has the same bits whatever the number of ranks.

Gradients are added in the tree of `tree.py`, and running statistics follow the micro-batches in their order.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor, nn

from masksup.base.place import Place
from masksup.config.schema import Parallel
from masksup.data.sampler import Share
from masksup.engine.parallel.exchange import in_order, tree_sum
from masksup.engine.parallel.replicas import Replicas
from masksup.engine.parallel.tree import Fold, Gradients
from masksup.engine.precision import autocast
from masksup.engine.running_statistics import RunningStatistics
from masksup.methods.method import Method

_ALIGNED = 128
"""Elements between the starts of gradients in a bucket: reductions on GPUs go by the alignment of what they read."""


class Ordered(Replicas):
    """A rank, or the only process, that adds as the tree says."""

    def __init__(
        self, method: Method, optimizer: torch.optim.Optimizer, dtype: torch.dtype, clip: float,
        place: Place, parallel: Parallel,
    ) -> None:  # fmt: skip
        super().__init__(method, optimizer, dtype, clip)
        self.place = place
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.statistics = RunningStatistics(method)
        self._buckets = buckets(self.parameters, int(parallel.bucket_mb * 2**20 / 4), place.world)
        # What the host has to know goes past NCCL, so that the host need not wait for the GPU.
        apart = place.world > 1 and self.skipped.is_cuda
        self._words: dist.ProcessGroup | None = dist.new_group(backend="gloo") if apart else None  # type: ignore[assignment]

    def begin(self, share: Share) -> None:
        self._share, self._done = share, 0
        self._fold = Fold(share.count)
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
        super().backward(loss, last)
        index = self._share.indices[self._done]
        self._done += 1
        self._fold.add((index, index + 1), [p.grad for p in self.parameters])
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> Tensor:
        if self.statistics.layers:
            width = self.statistics.width
            rows = torch.stack(self._rows) if self._rows else self.skipped.new_empty(0, width)
            self.statistics.apply(rows if self.place.world == 1 else in_order(rows, self._share.count))
        for parameter, gradient in zip(self.parameters, self._summed(), strict=True):
            parameter.grad = gradient
        return super().step()

    def _summed(self) -> Gradients:
        """The gradient of the step. Collective."""
        if self.place.world == 1:
            ((_, gradients),) = self._fold.nodes
            return gradients
        nodes = [gradients for _, gradients in self._fold.nodes]
        had = self._had(nodes)
        summed: Gradients = [None] * len(self.parameters)
        for bucket in self._buckets:
            parts = [bucket.flat(gradients) for gradients in nodes]
            flat = tree_sum(parts, bucket.empty(), self._share.count)
            for at, gradient in bucket.gradients(flat):
                summed[at] = gradient if had[at] else None
        return summed

    def _had(self, nodes: list[Gradients]) -> list[bool]:
        """Which parameters have a gradient on any rank: an optimiser treats none otherwise than zeros."""
        own = [any(gradients[at] is not None for gradients in nodes) for at in range(len(self.parameters))]
        had = torch.tensor(own, dtype=torch.uint8)
        dist.all_reduce(had, dist.ReduceOp.MAX, group=self._words)
        return [bool(value) for value in had.tolist()]


@dataclass(frozen=True)
class Bucket:
    """Some of the parameters, whose gradients cross the network as one flat tensor."""

    parameters: dict[int, nn.Parameter]
    """By their number."""
    starts: tuple[int, ...]
    length: int

    def empty(self) -> Tensor:
        return torch.empty(self.length, device=next(iter(self.parameters.values())).device)

    def flat(self, gradients: Gradients) -> Tensor:
        """The gradients of these parameters. Where there is none stands -0.0, which changes nothing it is added to."""
        flat = self.empty()
        present, found = [], []
        for at, place in self.gradients(flat):
            gradient = gradients[at]
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


def buckets(parameters: list[nn.Parameter], elements: int, world: int) -> list[Bucket]:
    """Buckets of at least so many elements each but the last, in the order in which gradients come: from the end."""
    found: list[Bucket] = []
    waiting: dict[int, nn.Parameter] = {}
    for at in reversed(range(len(parameters))):
        waiting[at] = parameters[at]
        if sum(p.numel() for p in waiting.values()) >= elements or at == 0:
            room = [-(-p.numel() // _ALIGNED) * _ALIGNED for p in waiting.values()]
            starts = (0, *accumulate(room))
            multiple = _ALIGNED * world
            found.append(Bucket(waiting, starts[:-1], -(-starts[-1] // multiple) * multiple))
            waiting = {}
    return found
