"""Everything a run is at a step, into a checkpoint and back (rule 4)."""

from typing import Any

from torch import Tensor

from masksup.engine.ema import MovingAverage, copy_values
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.models.network import Network
from masksup.runtime.checkpoint import State


def collect(stepper: Stepper, ema: MovingAverage | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors keyed `model/`, `optim/<state>/`, `ema/`, `method/` + name, and the scalars that belong to them."""
    tensors, meta = stepper.engine.export_state()
    if ema is not None:
        tensors |= {f"ema/{name}": value for name, value in ema.average.items()}
    tensors |= {f"method/{name}": value for name, value in stepper.engine.method.own_state().items()}
    return tensors, meta


def restore(state: State, network: Network, stepper: Stepper, ema: MovingAverage | None) -> None:
    """Put a checkpoint's state back. UserError if it belongs to another model."""
    refuse_other_model(network.state_dict(), state.part("model"), "this checkpoint")
    stepper.engine.import_state(state)
    if ema is not None:
        copy_values({name: value.to(stepper.device) for name, value in state.part("ema").items()}, ema.average)
    copy_values(state.part("method"), stepper.engine.method.own_state())


def load_network(network: Network, weights: dict[str, Tensor], origin: str) -> None:
    """Fill all parameters and buffers. UserError naming the first tensors that do not fit."""
    own = network.state_dict()
    refuse_other_model(own, weights, origin)
    copy_values({name: weights[name] for name in own}, own)


def refuse_other_model(own: dict[str, Tensor], weights: dict[str, Tensor], origin: str) -> None:
    """UserError naming the first tensors of `weights` that do not fit into a network's `own`."""
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    extra = [name for name in weights if name not in own]
    if wrong or extra:
        examples = ", ".join((wrong + extra)[:3])
        raise UserError(
            f"{origin}: is of another model: {len(wrong)} of {len(own)} tensors are missing or of another shape and "
            f"{len(extra)} are unknown (such as {examples})"
        )
