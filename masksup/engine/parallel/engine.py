"""What an engine is, and the choice of one."""

import importlib
from typing import Any, Protocol

import torch
from torch import Tensor

from masksup.base.place import Place
from masksup.config.components import ENGINES
from masksup.config.schema import Config
from masksup.data.sampler import Share
from masksup.methods.method import Method
from masksup.runtime.checkpoint import State


class Engine(Protocol):
    """See the package's docstring for what each part promises."""

    method: Method
    """The bare method; under ZeRO 3 its parameters are empty outside of a forward pass."""
    skipped: Tensor
    skipped_in_row: Tensor

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups, whose rates are set before each step."""

    def begin(self, share: Share) -> None: ...

    def warm_up(self, batch: dict[str, Tensor]) -> None: ...

    def forward(self, batch: dict[str, Tensor], last: bool) -> tuple[Tensor, dict[str, Tensor]]: ...

    def backward(self, loss: Tensor, last: bool) -> None: ...

    def step(self) -> Tensor: ...

    def gradient_is_finite(self, batch: dict[str, Tensor]) -> bool: ...

    def network_state(self) -> dict[str, Tensor]: ...

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def import_state(self, state: State) -> None: ...


def check_engine(config: Config, method: Method, device: torch.device, place: Place) -> None:
    """UserError where the engine that `parallel.engine` names cannot do what is asked. Not collective."""
    importlib.import_module(ENGINES[config.parallel.engine]).check(config, method, device, place)


def make_engine(config: Config, method: Method, device: torch.device, dtype: torch.dtype, place: Place) -> Engine:
    """The engine that `parallel.engine` names, around `method`, which lies on `device`. Collective."""
    engine: Engine = importlib.import_module(ENGINES[config.parallel.engine]).make(config, method, device, dtype, place)
    return engine
