"""What a step is seen to do: the images that the network gets, the loss of each, the gradient of each micro-batch."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from masksup.engine.step import Stepper


@dataclass
class MicroBatch:
    """One of a step, by what was seen of it."""

    samples: list[str]
    """Ids of its images."""
    losses: list[list[float]] = field(default_factory=list)
    """For each way in which the method looks at the whole micro-batch: the loss of each image by itself."""
    gradient_norm: float = 0.0
    """Of its own mean loss, before clipping."""
    seen: list[Tensor] = field(default_factory=list)
    """What the network got, at each of its passes: uint8, or float32 in 0..1, B3SS. Empty for kept features."""

    def of_each(self) -> list[tuple[str, float]]:
        """Each image with its mean loss over the looks."""
        if not self.losses:
            return []
        return [(sample, sum(row) / len(row)) for sample, row in zip(self.samples, zip(*self.losses), strict=True)]


class Watch:
    """Looks on while a step is done, and changes nothing of it."""

    def __init__(self, stepper: Stepper, samples: list[list[str]]) -> None:
        self._engine, self._method = stepper.engine, stepper.engine.method
        self.micro_batches = [MicroBatch(ids) for ids in samples]
        self._parameters = [p for group in self._engine.param_groups for p in group["params"]]
        self._squares: list[Tensor] = []
        self._at = 0

    def __enter__(self) -> Self:
        network, loss = self._method.network, self._method.loss
        self._hooks: list[Any] = [
            network.register_forward_pre_hook(self._sees), loss.register_forward_hook(self._judges),
            *[parameter.register_hook(self._receives) for parameter in self._parameters],
        ]  # fmt: skip
        self._backward = self._engine.backward
        self._engine.backward = self._watched_backward  # type: ignore[method-assign]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.backward = self._backward  # type: ignore[method-assign]
        for hook in self._hooks:
            hook.remove()

    @property
    def _now(self) -> MicroBatch:
        return self.micro_batches[self._at]

    def _sees(self, network: nn.Module, given: tuple[Any, ...]) -> None:  # noqa: ARG002  torch calls it so
        self._now.seen.append(given[0].detach().to("cpu", copy=True))

    def _judges(self, loss: nn.Module, given: tuple[Any, ...], result: Tensor) -> None:  # noqa: ARG002
        logits_BC, targets_BC = given[0].detach(), given[1]
        if len(logits_BC) == len(self._now.samples):
            own = [loss.forward(logits_BC[at : at + 1], targets_BC[at : at + 1]) for at in range(len(logits_BC))]
            self._now.losses.append([float(value) for value in own])

    def _receives(self, gradient: Tensor) -> None:
        self._squares.append(gradient.detach().double().square().sum())

    def _watched_backward(self, loss: Tensor, last: bool) -> None:
        """The engine's own. The gradient is of the loss times its share of the step and the loss scale."""
        self._squares = []
        self._backward(loss, last)
        norm = torch.stack(self._squares).sum().sqrt() if self._squares else torch.zeros(())
        share = len(self._now.samples) / sum(len(part.samples) for part in self.micro_batches)
        scaler = getattr(self._engine, "scaler", None)
        self._now.gradient_norm = float(norm) / (share * (scaler.get_scale() if scaler is not None else 1.0))
        self._at += 1
