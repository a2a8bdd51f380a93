"""A CUDA device that does not exist. Importing this loads the stub driver that argv names, before torch is imported.

Tensors made under `FakeTensorMode` with device cuda then go through forward, autocast, backward and fused optimisers:
shapes, types and devices are those of a GPU, and nothing is computed.
"""

import ctypes
import sys
from typing import Any

ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
import torch._subclasses.fake_tensor as fake_tensor  # noqa: E402
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

DEVICE = torch.device("cuda")


class Event:
    """Notes in `said` when it is recorded and when the host waits for it, as `record 0` and `wait 0`."""

    said: list[str] = []  # noqa: RUF012  one list for all
    made = 0

    def __init__(self, **_: bool) -> None:
        self.number, Event.made = Event.made, Event.made + 1

    def record(self) -> None:
        self.said.append(f"record {self.number}")

    def synchronize(self) -> None:
        self.said.append(f"wait {self.number}")


def _pretend() -> None:
    """Answer for the device what torch asks its driver in ways that a stub cannot."""
    anything: Any = torch
    anything.cuda.is_available = lambda: True
    anything.cuda.is_bf16_supported = lambda *_, **__: True
    anything.cuda.current_device = lambda: 0
    anything.cuda.Event = Event
    anything.cuda.manual_seed = lambda *_: None
    anything._fused_sgd_ = lambda *_, **__: None  # has no form for fake tensors in torch 2.15
    fake_tensor.init_gpu_context = lambda *_, **__: None
    FakeTensorMode.avoid_device_init = property(lambda _: True)  # type: ignore[method-assign, assignment]


_pretend()


def move(module: nn.Module, mode: FakeTensorMode) -> None:
    """Parameters and buffers as fake tensors on the fake device; what is neither stays on the host, as under `.to`."""

    def on_device(tensor: torch.Tensor) -> torch.Tensor:
        with mode:
            return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=DEVICE)

    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(on_device(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = on_device(buffer)
