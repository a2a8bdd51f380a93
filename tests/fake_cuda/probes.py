"""Computations that are wrong on a GPU, each in one way: the watch has to find every one."""

from collections.abc import Callable
from contextlib import suppress

import torch
from device import DEVICE
from findings import Watch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional as F


def _backward(loss: Tensor) -> None:
    loss.sum().backward()


PROBES: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "nonzero": torch.nonzero,
    "boolean_index": lambda x: x[x > 0],
    "boolean_assignment": lambda x: x.detach().clone().index_put_((x > 0,), x.new_zeros(())),
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "unique": torch.unique,
    "repeats": lambda x: x.repeat_interleave(torch.ones(8, dtype=torch.long, device=DEVICE), -1),
    "cpu": lambda x: x.cpu(),
    "tensor": lambda x: x + torch.tensor([1.0], device=DEVICE),
    "new_tensor": lambda x: x + x.new_tensor([1.0]),
    "to": lambda x: x + torch.zeros(x.shape).to(DEVICE),
    "copy": lambda x: x.detach().copy_(torch.zeros(x.shape)),
    "reflection_pad": lambda x: _backward(F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "adaptive_pool": lambda x: _backward(F.adaptive_avg_pool2d(x, 3)),
    "mixed_devices": lambda x: x + torch.zeros(x.shape),
    "harmless": lambda x: _backward(x.to(torch.bfloat16).sigmoid() @ x.mT.bfloat16()),
}


def probe(name: str, watch: Watch) -> None:
    """The computation `name`, watched. Raises for devices that are mixed up."""
    torch.use_deterministic_algorithms(True)
    with FakeTensorMode(allow_non_fake_inputs=False), watch:
        x = torch.empty(2, 3, 8, 8, device=DEVICE, requires_grad=True)
        # There is no value to go on with: the watch has to have found that.
        with suppress(DataDependentOutputException, DynamicOutputShapeException):
            PROBES[name](x)
