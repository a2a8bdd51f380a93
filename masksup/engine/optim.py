"""The optimiser: parameter groups with their factors, rates, and the norm of their gradients."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from masksup.config.schema import Optim
from masksup.models.layers import layer_scales
from masksup.models.network import Network


class ZeroedSGD(torch.optim.SGD):
    """torch's SGD, with momentum that begins at zero: the same numbers, whichever step is the first that is applied.

    The fused form makes the buffers without filling them, and where that step is skipped leaves whatever the memory
    held, on which the next step goes on. Nor does it take parameters whose first gradients come in different steps.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                if parameter.grad is not None and "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        loss: float | None = super().step(closure)
        return loss


def build_optimizer(optim: Optim, network: Network) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over the trainable parameters.

    These in the fused form: it takes `found_inf`, a flag on the device, so that a bad gradient is skipped without
    asking the device about it. Each group keeps its `factor` on the learning rate.
    """
    groups = list(_groups(optim, network))
    if optim.name == "lbfgs":  # keeps the place of one: a head that is solved is never stepped
        return torch.optim.SGD(groups, lr=0.0)
    if optim.name == "sgd":
        return ZeroedSGD(
            groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay,
            nesterov=optim.nesterov, fused=True,
        )  # fmt: skip
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True)


def _groups(optim: Optim, network: Network) -> Iterator[dict[str, object]]:
    """Parameters with the same rate and decay; a name before its comma stands for one rate."""
    scales = layer_scales(network.backbone, optim.layer_decay)
    parts: list[tuple[str, nn.Module, float]] = [
        ("backbone", network.backbone, optim.backbone_factor),
        ("head", network.head, optim.head_factor),
    ]
    for part, module, factor in parts:
        groups: dict[str, dict[str, Any]] = {}
        for path, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            bias = path.endswith("bias")  # also `in_proj_bias` of attention
            faster = bias and optim.bias_factor != 1
            decayed = optim.decay == "all" or not (bias or (optim.decay == "matrices" and parameter.ndim <= 1))
            layer, scale = scales[path] if part == "backbone" and scales else ("", 1.0)
            name = part + layer + ("_bias" if faster else "") + ("" if decayed else ", no decay")
            group = groups.setdefault(name, {"name": name, "params": []})
            group["params"].append(parameter)
            group["factor"] = factor * scale * (optim.bias_factor if faster else 1.0)
            group["weight_decay"] = optim.weight_decay if decayed else 0.0
        yield from groups.values()


def set_rates(groups: list[dict[str, Any]], lr: float, momentum: float | None) -> None:
    """Give every group its rate for the coming step, and one-cycle's momentum where there is one."""
    for group in groups:
        group["lr"] = lr * group["factor"]
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None:
            group["momentum"] = momentum


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """The 2-norm of all gradients (a scalar on the device), which are scaled down to `largest` if that is above 0."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    if largest > 0:
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)
    return norm
