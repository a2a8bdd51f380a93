"""`parallel.sum: ring`: torch's DDP. The library sums while the backward pass runs, in an order of its own."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from masksup.config.schema import Parallel
from masksup.engine.ema import copy_values
from masksup.engine.parallel.replicas import Replicas
from masksup.engine.precision import autocast
from masksup.methods.method import Method


class Ring(Replicas):
    """A rank whose gradients DDP sums. `wrapped`: the method in DDP."""

    def __init__(
        self, method: Method, optimizer: torch.optim.Optimizer, dtype: torch.dtype, clip: float,
        wrapped: DistributedDataParallel,
    ) -> None:  # fmt: skip
        super().__init__(method, optimizer, dtype, clip)
        self.wrapped = wrapped

    def warm_up(self, batch: dict[str, Tensor]) -> None:
        """Two discarded backwards: DDP sums in another order before it has rebuilt its buckets (rule 4)."""
        before = {name: value.clone() for name, value in self.method.named_buffers()}
        for _ in range(2):
            loss, _ = self.forward(batch, last=True)
            self.backward(loss, last=True)
            self.optimizer.zero_grad(set_to_none=True)
        copy_values(before, dict(self.method.named_buffers()))

    def forward(self, batch: dict[str, Tensor], last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with self._summing(last), autocast(self.device, self.dtype):
            loss, logs = self.wrapped(batch)
        return loss, logs

    def backward(self, loss: Tensor, last: bool) -> None:
        with self._summing(last):
            torch.autograd.backward(self.scaler.scale(loss))

    def _summing(self, last: bool) -> AbstractContextManager[None]:
        """One sum over ranks a step: the gradients of earlier micro-batches wait for the last one."""
        if last:
            return nullcontext()
        context: AbstractContextManager[None] = self.wrapped.no_sync()
        return context


def wrap(method: Method, parallel: Parallel, compiled: bool, device: torch.device) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # The name that torch 2.15 prefers for `broadcast_buffers` is unknown to 2.11.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped = DistributedDataParallel(
            method,
            device_ids=None if device.type == "cpu" else [torch.cuda.current_device()],
            broadcast_buffers=False,  # batch norm belongs to the micro-batch (rule 1)
            gradient_as_bucket_view=True,
            bucket_cap_mb=parallel.bucket_mb,
            static_graph=parallel.static_graph and not compiled,
            find_unused_parameters=not parallel.static_graph,
        )
    wrapped.register_comm_hook(None, _sum_in_bf16 if parallel.compress == "bf16" else _sum)
    return wrapped


def _sum(_: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    # DDP's own hook divides by the number of ranks; losses come with their share of the step, so a sum is exact.
    return _summed(bucket.buffer(), lambda summed: summed)


def _sum_in_bf16(_: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    whole = bucket.buffer()
    return _summed(whole.to(torch.bfloat16), whole.copy_)


def _summed(values: Tensor, then: Callable[[Tensor], Tensor]) -> torch.futures.Future[Tensor]:
    """The sum of `values` over the ranks, in their place, and what `then` makes of it."""
    work = dist.all_reduce(values, async_op=True)
    if values.is_cuda and dist.get_backend() == "gloo":
        # Its future is done before the sum is back on the GPU; only `wait` orders the two.
        work.wait()
        future: torch.futures.Future[Tensor] = torch.futures.Future(devices=[values.device])
        future.set_result(then(values))
        return future
    return work.get_future().then(lambda done: then(done.value()[0]))
