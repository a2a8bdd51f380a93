"""Every rank holds the whole model. `parallel.sum` says in which order the gradients of a step are added."""

from collections.abc import Callable

import torch
from torch import nn

from masksup.base.place import Place
from masksup.config.auto import with_sum
from masksup.config.schema import Config
from masksup.engine.optim import build_optimizer
from masksup.engine.parallel.ordered import Ordered
from masksup.engine.parallel.replicas import Replicas
from masksup.engine.parallel.ring import Ring, wrap
from masksup.errors import UserError
from masksup.methods.method import Method
from masksup.models.network import Network


def check(config: Config, method: Method, device: torch.device, place: Place) -> None:
    """Whatever a configuration can ask for is possible here."""


def make(config: Config, method: Method, device: torch.device, dtype: torch.dtype, place: Place) -> Replicas:
    """The engine `ddp` around `method`. Collective where there are several ranks."""
    parallel = with_sum(config).parallel
    if parallel.sync_batchnorm:
        synchronise_batchnorm(method, device)
    parts = method, build_optimizer(config.optim, method.network), dtype, config.optim.clip
    if parallel.sum == "tree":
        return Ordered(*parts, place, parallel)
    return (
        Replicas(*parts) if place.world == 1 else Ring(*parts, wrap(method, parallel, config.precision.compile, device))
    )


def synchronise_batchnorm(method: Method, device: torch.device) -> None:
    from timm.layers.norm_act import convert_sync_batchnorm  # torch's own loses timm's fused activations

    if device.type == "cpu":
        raise UserError("parallel.sync_batchnorm: found true, but these ranks run on CPUs; torch has it for GPUs only")
    convert: Callable[[nn.Module], Network] = convert_sync_batchnorm
    method.network = convert(method.network)
