"""One optimiser step over its micro-batches."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from masksup.engine.optim import clip_gradients
from masksup.engine.precision import autocast
from masksup.methods.method import Method


@dataclass
class Stepper:
    """What a step needs besides data: the wrapped method, its optimiser and the numbers' types.

    `skipped` and `skipped_in_row` count, on the device, the steps whose gradient was not finite.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    dtype: torch.dtype
    clip: float
    seed: int

    def __post_init__(self) -> None:
        self.skipped = torch.zeros((), device=self.device)
        self.skipped_in_row = torch.zeros((), device=self.device)

    def step(self, micro_batches: list[dict[str, Tensor]], step: int, progress: float) -> dict[str, Tensor]:
        """Forward and backward over all micro-batches, then one update, skipped if a gradient is not finite.

        `progress` is the share of the training's steps that is done.

        A micro-batch's loss counts by its share of the step's samples. Returns scalars on the device (`loss`,
        `gradient_norm`, the method's logs): reading them is the caller's choice.
        """
        samples = sum(len(batch["target"]) for batch in micro_batches)
        logs: dict[str, Tensor] = {}
        done = torch.full((), progress, device=self.device)
        for index, batch in enumerate(micro_batches):
            share = len(batch["target"]) / samples
            seed_forward(self.seed, step, index)
            batch = {**to_device(batch, self.device), "progress": done}
            with autocast(self.device, self.dtype):
                loss, extra = self.method(batch)
            self.scaler.scale(loss * share).backward()
            for name, value in {"loss": loss, **extra}.items():
                logs[name] = logs.get(name, torch.zeros((), device=self.device)) + value.detach() * share
        logs["gradient_norm"] = self._update()
        self.method.update(step)
        return logs

    def _update(self) -> Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(parameters, self.clip)
        bad = (~torch.isfinite(norm)).float()
        if not self.scaler.is_enabled():  # the scaler tells the optimiser itself
            self.optimizer.found_inf = bad  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += bad
        self.skipped_in_row = (self.skipped_in_row + bad) * bad
        return norm


def seed_forward(seed: int, step: int, index: int) -> None:
    """Make dropout and stochastic depth a function of (seed, step, micro-batch): rule 2."""
    digest = hashlib.blake2b(f"forward {seed} {step} {index}".encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(value)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The tensors of a batch on `device`, without waiting for the copy."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
