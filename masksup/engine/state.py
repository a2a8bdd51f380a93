"""Everything a run is at a step, into a checkpoint and back (rule 4)."""

from typing import Any

import torch
from torch import Tensor

from masksup.engine.ema import MovingAverage, copy_values
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.models.network import Network
from masksup.runtime.checkpoint import State


def collect(network: Network, stepper: Stepper, ema: MovingAverage | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors keyed `model/`, `optim/<state>/`, `ema/`, `method/` + name, and the scalars that belong to them."""
    tensors = {f"model/{name}": value for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in stepper.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optim/{key}/{name}"] = value
    if ema is not None:
        tensors |= {f"ema/{name}": value for name, value in ema.average.items()}
    tensors |= {f"method/{name}": value for name, value in stepper.method.own_state().items()}
    meta = {
        "scaler": stepper.scaler.state_dict(),
        "skipped": int(stepper.skipped.item()),
        "skipped_in_row": int(stepper.skipped_in_row.item()),
    }
    return tensors, meta


def restore(state: State, network: Network, stepper: Stepper, ema: MovingAverage | None) -> None:
    """Put a checkpoint's state back. UserError if it belongs to another model."""
    load_network(network, state.part("model"), "this checkpoint")
    optimizer = stepper.optimizer
    optimizer.state.clear()
    saved = state.part("optim")
    for name, parameter in network.named_parameters():
        for key in {full.split("/", 1)[0] for full in saved}:
            value = saved.get(f"{key}/{name}")
            if value is not None:
                place = value.to(parameter.device, copy=True)
                same = value.shape == parameter.shape
                optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(value) if same else place
    if ema is not None:
        copy_values({name: value.to(stepper.device) for name, value in state.part("ema").items()}, ema.average)
    copy_values(state.part("method"), stepper.method.own_state())
    stepper.scaler.load_state_dict(state.meta["scaler"])
    stepper.skipped.fill_(state.meta["skipped"])
    stepper.skipped_in_row.fill_(state.meta["skipped_in_row"])


def load_network(network: Network, weights: dict[str, Tensor], origin: str) -> None:
    """Fill all parameters and buffers. UserError naming the first tensors that do not fit."""
    own = network.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    extra = [name for name in weights if name not in own]
    if wrong or extra:
        examples = ", ".join((wrong + extra)[:3])
        raise UserError(
            f"{origin}: is of another model: {len(wrong)} of {len(own)} tensors are missing or of another shape and "
            f"{len(extra)} are unknown (such as {examples})"
        )
    copy_values({name: weights[name] for name in own}, own)
