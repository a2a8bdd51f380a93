"""Every rank holds the whole model; gradients are summed while the backward pass runs. Alone, nothing is wrapped."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from masksup.base.place import Place
from masksup.config.schema import Config, Parallel
from masksup.engine.ema import copy_values
from masksup.engine.optim import build_optimizer, clip_gradients
from masksup.engine.precision import gradient_scaler
from masksup.errors import UserError
from masksup.methods.method import Method
from masksup.models.network import Network
from masksup.runtime.checkpoint import State


class Replicas:
    """The engine `ddp`, and the engine of a single process (`wrapped` is then the method itself).

    `skipped` and `skipped_in_row` count, on the device, the steps whose gradient was not finite.
    """

    def __init__(
        self, method: Method, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip: float,
        wrapped: nn.Module | None = None,
    ) -> None:  # fmt: skip
        self.method, self.optimizer, self.scaler, self.clip = method, optimizer, scaler, clip
        self.wrapped = method if wrapped is None else wrapped
        device = next(method.parameters()).device
        self.skipped = torch.zeros((), device=device)
        self.skipped_in_row = torch.zeros((), device=device)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def warm_up(self, batch: dict[str, Tensor]) -> None:
        """Two discarded backwards: DDP sums in another order before it has rebuilt its buckets (rule 4)."""
        if not isinstance(self.wrapped, DistributedDataParallel):
            return
        before = {name: value.clone() for name, value in self.method.named_buffers()}
        for _ in range(2):
            loss, _ = self.forward(batch, last=True)
            self.backward(loss, last=True)
            self.optimizer.zero_grad(set_to_none=True)
        copy_values(before, dict(self.method.named_buffers()))

    def forward(self, batch: dict[str, Tensor], last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with self._summing(last):
            loss, logs = self.wrapped(batch)
        return loss, logs

    def backward(self, loss: Tensor, last: bool) -> None:
        with self._summing(last):
            torch.autograd.backward(self.scaler.scale(loss))

    def _summing(self, last: bool) -> AbstractContextManager[None]:
        """One sum over ranks a step: the gradients of earlier micro-batches wait for the last one."""
        if last or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[None] = self.wrapped.no_sync()
        return context

    def step(self) -> Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(parameters, self.clip)
        # The sum is not finite where the gradient of any rank is not, so all ranks skip together.
        bad = (~torch.isfinite(norm)).to(torch.float32)  # the type that fused optimisers read
        if not self.scaler.is_enabled():  # the scaler tells the optimiser itself
            self.optimizer.found_inf = bad  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += bad
        self.skipped_in_row = (self.skipped_in_row + bad) * bad
        return norm

    def gradient_is_finite(self, batch: dict[str, Tensor]) -> bool:
        loss, _ = self.method(batch)  # not the wrapped one, which would wait for the other ranks
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = torch.autograd.grad(self.scaler.scale(loss), weights, allow_unused=True)
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients if gradient is not None)

    def network_state(self) -> dict[str, Tensor]:
        return self.method.network.kept_state()

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        network = self.method.network
        tensors = {f"model/{name}": value for name, value in network.kept_state().items()}
        for name, parameter in network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optim/{key}/{name}"] = value
        meta = {
            "scaler": self.scaler.state_dict(),
            "skipped": int(self.skipped.item()),
            "skipped_in_row": int(self.skipped_in_row.item()),
        }
        return tensors, meta

    def import_state(self, state: State) -> None:
        network = self.method.network
        copy_values(state.part("model"), network.kept_state())
        self.optimizer.state.clear()
        saved = state.part("optim")
        keys = {name.split("/", 1)[0] for name in saved}
        for name, parameter in network.named_parameters():
            for key in keys:
                value = saved.get(f"{key}/{name}")
                if value is not None:
                    place = value.to(parameter.device, copy=True)
                    same = value.shape == parameter.shape
                    self.optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(value) if same else place
        self.scaler.load_state_dict(state.meta["scaler"])
        self.skipped.fill_(state.meta["skipped"])
        self.skipped_in_row.fill_(state.meta["skipped_in_row"])


def check(config: Config, method: Method, device: torch.device, place: Place) -> None:
    """Whatever a configuration can ask for is possible here."""


def make(config: Config, method: Method, device: torch.device, dtype: torch.dtype, place: Place) -> Replicas:
    """The engine `ddp` around `method`. Collective where there are several ranks."""
    parallel = config.parallel
    if parallel.sync_batchnorm:
        synchronise_batchnorm(method, device)
    optimizer = build_optimizer(config.optim, method.network)
    wrapped = _wrap(method, parallel, config.precision.compile, device) if place.world > 1 else None
    return Replicas(method, optimizer, gradient_scaler(device, dtype), config.optim.clip, wrapped)


def _wrap(method: Method, parallel: Parallel, compiled: bool, device: torch.device) -> DistributedDataParallel:
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


def synchronise_batchnorm(method: Method, device: torch.device) -> None:
    from timm.layers.norm_act import convert_sync_batchnorm  # torch's own loses timm's fused activations

    if device.type == "cpu":
        raise UserError("parallel.sync_batchnorm: found true, but these ranks run on CPUs; torch has it for GPUs only")
    convert: Callable[[nn.Module], Network] = convert_sync_batchnorm
    method.network = convert(method.network)
