"""DeepSpeed: ZeRO spreads optimiser state (1), gradients (2) and parameters (3) over the ranks; 0 spreads nothing.

Parameters stay fp32 and autocast casts them, as under `ddp`, so that the engines compute the same and take each
other's checkpoints.
"""

import math
import os
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.nn import functional

from masksup.base.place import Place
from masksup.config.schema import Config
from masksup.data.sampler import Share
from masksup.engine.optim import build_optimizer, clip_gradients
from masksup.engine.parallel.ddp import synchronise_batchnorm
from masksup.engine.parallel.zero_settings import check, deepspeed_config, import_deepspeed
from masksup.engine.parallel.zero_state import export_network, export_optimizer, import_network, import_optimizer
from masksup.engine.precision import autocast
from masksup.methods.method import Method
from masksup.runtime.checkpoint import State

__all__ = ["check", "make"]  # what an engine offers

Linear = Callable[..., Tensor]


@contextmanager
def _linear_is(linear: Linear | None) -> Iterator[None]:
    """For the duration, what `torch.nn.Linear` computes with (None: what it is), and torch's own after it.

    Making a ZeRO 3 engine replaces it for the rest of the process by one that keeps no gathered weight. That one hands
    over weight and bias in another order, so that buckets are laid out and summed differently: any engine of the same
    process would be another one in last bits, according to what was made before it.
    """
    before = functional.linear
    functional.linear = linear or before
    try:
        yield
    finally:
        functional.linear = before


class Sharded:
    """The engine `deepspeed`. `wrapped` is DeepSpeed's engine around the method, `optimizer` torch's inside of it.

    `skipped` and `skipped_in_row` count the steps whose gradient was not finite; DeepSpeed asks the device for that.
    """

    def __init__(
        self, method: Method, optimizer: torch.optim.Optimizer, wrapped: Any, scale: "LossScale", clip: float,
        linear: Linear,
    ) -> None:  # fmt: skip
        self.method, self.optimizer, self.wrapped, self.scale, self.clip = method, optimizer, wrapped, scale, clip
        self.named_parameters = [(name, p) for name, p in method.network.named_parameters() if p.requires_grad]
        self._linear = linear
        self.stage: int = wrapped.zero_optimization_stage()
        device = next(method.parameters()).device
        self.skipped = torch.zeros((), device=device)
        self.skipped_in_row = torch.zeros((), device=device)

    def begin(self, share: Share) -> None:
        """Nothing to prepare for a step."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def warm_up(self, batch: dict[str, Tensor]) -> None:
        """Nothing: ZeRO sums in the same order from its first backward on (rule 4)."""

    def forward(self, batch: dict[str, Tensor], last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        self.wrapped.set_gradient_accumulation_boundary(last)
        with _linear_is(self._linear):
            loss, logs = self.wrapped(batch)
        return loss, logs

    def backward(self, loss: Tensor, last: bool) -> None:  # noqa: ARG002  forward has told DeepSpeed
        # DeepSpeed divides by the number of ranks; losses come with their share of the step, so that is undone.
        loss = loss * self.wrapped.world_size
        if self.stage > 0:
            self.wrapped.optimizer.override_loss_scale(self.scale.value)
        else:
            loss = loss * self.scale.value
        with _linear_is(self._linear):  # activations may be computed again
            self.wrapped.backward(loss, scale_wrt_gas=False)

    def step(self) -> Tensor:
        norm = self._step_whole() if self.stage == 0 else self._step_sharded()
        bad = (~torch.isfinite(norm)).float()
        if self.scale.dynamic:
            self.scale.update(found_inf=not math.isfinite(norm.item()))
        self.skipped += bad
        self.skipped_in_row = (self.skipped_in_row + bad) * bad
        return norm

    def _step_sharded(self) -> Tensor:
        """DeepSpeed measures, clips and skips itself; where it skips, the norm it tells is infinite."""
        self.wrapped.step()
        norm = self.wrapped.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.skipped.device)

    def _step_whole(self) -> Tensor:
        """Stage 0 neither measures nor skips, so the optimiser's own flag does, as in `replicas.py`."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.scale.dynamic:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / self.scale.value)
        norm = clip_gradients(parameters, self.clip)
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.wrapped.step()
        return norm

    def gradient_is_finite(self, batch: dict[str, Tensor]) -> bool:
        # All ranks go through as many micro-batches, so that those of stage 3 meet in gathering the parameters.
        loss, _ = self.wrapped.module(batch)
        weights = [parameter for _, parameter in self.named_parameters]
        gradients = torch.autograd.grad(loss * self.scale.value, weights, allow_unused=True)
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients if gradient is not None)

    def network_state(self) -> dict[str, Tensor]:
        return export_network(self.method.network, self.named_parameters, self.stage)

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"model/{name}": value for name, value in self.network_state().items()}
        tensors |= export_optimizer(self.named_parameters, self.optimizer, self.wrapped.optimizer, self.stage)
        meta = {
            "scaler": self.scale.state(),
            "skipped": int(self.skipped.item()),
            "skipped_in_row": int(self.skipped_in_row.item()),
        }
        return tensors, meta

    def import_state(self, state: State) -> None:
        import_network(self.method.network, self.named_parameters, state.part("model"), self.stage)
        if self.stage > 0:
            self.wrapped.optimizer.refresh_fp32_params()
        saved = state.part("optim")
        import_optimizer(self.named_parameters, self.optimizer, self.wrapped.optimizer, saved, self.stage)
        self.scale.load(state.meta["scaler"])
        self.skipped.fill_(state.meta["skipped"])
        self.skipped_in_row.fill_(state.meta["skipped_in_row"])


class LossScale:
    """The scale of fp16's losses, by the rule of torch's GradScaler and with its state; 1 for the other types.

    On the host, because DeepSpeed wants a number.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._state = self._scaler.state_dict()

    @property
    def dynamic(self) -> bool:
        return bool(self._state)

    @property
    def value(self) -> float:
        return float(self._state["scale"]) if self._state else 1.0

    def update(self, found_inf: bool) -> None:
        state = self._state
        state["_growth_tracker"] = 0 if found_inf else state["_growth_tracker"] + 1
        if found_inf:
            state["scale"] *= state["backoff_factor"]
        elif state["_growth_tracker"] == state["growth_interval"]:
            state["scale"] *= state["growth_factor"]
            state["_growth_tracker"] = 0

    def state(self) -> dict[str, Any]:
        return dict(self._state)

    def load(self, state: dict[str, Any]) -> None:
        self._state = dict(state)


class _Autocast(nn.Module):
    """The method under autocast. DeepSpeed switches off an autocast that was entered outside of it."""

    def __init__(self, method: Method, device: torch.device, dtype: torch.dtype, stage: int) -> None:
        super().__init__()
        self.method, self.device, self.dtype = method, device, dtype
        # At stage 3 they would be copies of all the parameters, whole, which ZeRO has just spread over the ranks.
        self.keep_casts = stage < 3

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(self.device, self.dtype, keep_casts=self.keep_casts):
            loss, logs = self.method(batch)
        return loss, logs


def make(config: Config, method: Method, device: torch.device, dtype: torch.dtype, place: Place) -> Sharded:
    """The engine `deepspeed` around `method`. Collective."""
    deepspeed = import_deepspeed(device)
    if config.parallel.sync_batchnorm:
        synchronise_batchnorm(method, device)
    for parameter in method.parameters():  # DeepSpeed lays them out flat, one behind the other
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    optimizer = build_optimizer(config.optim, method.network)
    if not dist.is_initialized():  # alone: DeepSpeed wants a process group all the same
        dist.init_process_group("gloo" if device.type == "cpu" else "nccl", store=HashStore(), rank=0, world_size=1)
    rank = 0 if device.type == "cpu" else torch.cuda.current_device()
    os.environ.setdefault("LOCAL_RANK", str(place.local_rank))  # srun sets none, and DeepSpeed insists on it
    cast = _Autocast(method, device, dtype, config.parallel.zero_stage)
    with _linear_is(None):
        wrapped, *_ = deepspeed.initialize(
            args=types.SimpleNamespace(device_rank=rank), model=cast, optimizer=optimizer,
            config=deepspeed_config(config, device, place), dist_init_required=False,
        )  # fmt: skip
        linear = functional.linear
    return Sharded(method, optimizer, wrapped, LossScale(device, dtype), config.optim.clip, linear)
