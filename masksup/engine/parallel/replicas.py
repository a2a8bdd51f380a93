"""A process that holds the whole model: its update, and its state out and back in."""

from typing import Any

import torch
from torch import Tensor

from masksup.data.sampler import Share
from masksup.engine.ema import copy_values
from masksup.engine.optim import clip_gradients
from masksup.engine.precision import autocast, gradient_scaler
from masksup.methods.method import Method
from masksup.runtime.checkpoint import State


class Replicas:
    """A process with the whole model; what it shares a step with is the matter of those that extend it.

    `skipped` and `skipped_in_row` count, on the device, the steps whose gradient was not finite.
    """

    def __init__(self, method: Method, optimizer: torch.optim.Optimizer, dtype: torch.dtype, clip: float) -> None:
        self.method, self.optimizer, self.dtype, self.clip = method, optimizer, dtype, clip
        self.device = device = next(method.parameters()).device
        self.scaler = gradient_scaler(device, dtype)
        self.skipped = torch.zeros((), device=device)
        self.skipped_in_row = torch.zeros((), device=device)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def begin(self, share: Share) -> None:
        """Nothing to prepare for a step."""

    def warm_up(self, batch: dict[str, Tensor]) -> None:
        """Nothing depends on a first batch."""

    def forward(self, batch: dict[str, Tensor], last: bool) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        with autocast(self.device, self.dtype):
            loss, logs = self.method(batch)
        return loss, logs

    def backward(self, loss: Tensor, last: bool) -> None:  # noqa: ARG002
        torch.autograd.backward(self.scaler.scale(loss))

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
        with autocast(self.device, self.dtype):
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
