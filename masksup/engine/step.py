"""One optimiser step over its micro-batches."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from masksup.data.sampler import Share, share_of
from masksup.engine.parallel.engine import Engine
from masksup.engine.precision import deterministic_forms


@dataclass
class Stepper:
    """What a step needs besides data."""

    engine: Engine
    device: torch.device
    seed: int
    _before: torch.cuda.Event | None = None

    def catch_up(self) -> None:
        """Wait until the GPU has done the step before the last, so that the host is never further ahead than that.

        A sum that hangs is then seen at its step, not once the GPU is next asked for a number.
        """
        if self.device.type == "cuda":
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            done.record()
            if self._before is not None:
                self._before.synchronize()
            self._before = done

    @deterministic_forms()
    def step(
        self, micro_batches: list[dict[str, Tensor]], step: int, progress: float, share: Share | None = None
    ) -> dict[str, Tensor]:
        """Forward and backward over this rank's micro-batches, then one update, skipped if a gradient is not finite.

        `progress` is the share of the training's steps that is done; `share` says which micro-batches of the step
        these are, None: all of them.

        A micro-batch's loss counts by its share of the step's samples. Returns, on the device, `loss` and the method's
        logs, each the parts of these micro-batches (M), which sum to the step's over all ranks, and `gradient_norm`, a
        scalar, which is the step's. Reading them is the caller's choice.
        """
        if share is None:
            share = share_of(len(micro_batches), sum(len(batch["target"]) for batch in micro_batches), 0, 1)
        self.engine.begin(share)
        logs: dict[str, list[Tensor]] = {}
        kept = self._buffers() if share.weightless else {}
        for index, batch in zip(share.indices, micro_batches, strict=True):
            last = index == share.indices[-1]
            part = 0.0 if share.weightless else len(batch["target"]) / share.samples
            seed_forward(self.seed, step, index)
            loss, extra = self.engine.forward(self._on_device(batch, progress), last)
            self.engine.backward(loss * part, last)
            for name, value in {"loss": loss, **extra}.items():
                logs.setdefault(name, []).append(value.detach() * part)
        for name, value in kept.items():
            self._buffers_in_place()[name].copy_(value)
        norm = self.engine.step()
        self.engine.method.update(step)
        return {name: torch.stack(parts) for name, parts in logs.items()} | {"gradient_norm": norm}

    @deterministic_forms()
    def warm_up(self, batch: dict[str, Tensor], step: int, progress: float) -> None:
        """Let the engine go through a batch without a trace."""
        seed_forward(self.seed, step, 0)
        self.engine.warm_up(self._on_device(batch, progress))

    def gradient_is_finite(self, batch: dict[str, Tensor], step: int, index: int, progress: float) -> bool:
        """Whether the gradient of one micro-batch is finite; nothing is applied. Asks the device."""
        seed_forward(self.seed, step, index)
        return self.engine.gradient_is_finite(self._on_device(batch, progress))

    def _on_device(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        return {**to_device(batch, self.device), "progress": torch.full((), progress, device=self.device)}

    def _buffers(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self._buffers_in_place().items()}

    def _buffers_in_place(self) -> dict[str, Tensor]:
        return dict(self.engine.method.named_buffers())


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
