"""Everything a run is at a step, into a checkpoint and back (rule 4)."""

import hashlib
from typing import Any

from torch import Tensor, nn

from masksup.base.place import Place
from masksup.base.words import counted
from masksup.engine.ema import MovingAverage, copy_values
from masksup.engine.rank_buffers import apart
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.models.network import Network
from masksup.runtime.checkpoint import State
from masksup.runtime.ranks import Group


def collect(stepper: Stepper, ema: MovingAverage | None, group: Group) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors keyed `model/`, `optim/<state>/`, `ema/`, `method/` + name, and the scalars that belong to them.

    What differs between ranks (statistics of batch norm) stands there as its mean, and as it is on rank R below
    `ranks/R/`. Collective; complete on rank 0.
    """
    tensors, meta = own_state(stepper, ema)
    mean, of_ranks = apart(_kept_by_each_rank(tensors, stepper), group)
    tensors |= mean
    for rank, values in enumerate(of_ranks):
        tensors |= {f"ranks/{rank}/{name}": value for name, value in values.items()}
    return tensors, {**meta, "ranks": group.world}


def own_state(stepper: Stepper, ema: MovingAverage | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same of this rank by itself; complete where every rank holds the whole model. Not copies."""
    tensors, meta = stepper.engine.export_state()
    if ema is not None:
        tensors |= {f"ema/{name}": value for name, value in ema.average.items()}
    return tensors | {f"method/{name}": value for name, value in stepper.engine.method.own_state().items()}, meta


def _kept_by_each_rank(tensors: dict[str, Tensor], stepper: Stepper) -> dict[str, Tensor]:
    """What every rank follows for itself: buffers, their moving average, and what the method keeps."""
    parameters = {name for name, _ in stepper.engine.method.network.named_parameters()}
    own = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "method" or (kind in ("model", "ema") and rest not in parameters):
            own[name] = value
    return own


def scored_state(stepper: Stepper, ema: MovingAverage | None, group: Group) -> dict[str, Tensor]:
    """The network's state as it is scored: live or averaged weights, the mean of the ranks' buffers. Collective."""
    state = stepper.engine.network_state()
    if ema is not None:
        state = {**state, **ema.average}
    parameters = {name for name, _ in stepper.engine.method.network.named_parameters()}
    mean, _ = apart({name: value for name, value in state.items() if name not in parameters}, group)
    return {**state, **mean}


def of_this_rank(state: State, place: Place) -> State:
    """The state as a rank goes on from it: with its own buffers where as many ranks saved, else with their mean."""
    shared = {name: value for name, value in state.tensors.items() if not name.startswith("ranks/")}
    own = state.part(f"ranks/{place.rank}") if state.meta.get("ranks", 1) == place.world else {}
    return State(shared | own, state.meta)


def restore(state: State, stepper: Stepper, ema: MovingAverage | None) -> None:
    """Put a checkpoint's state, as `of_this_rank` gives it, back. It must be of this model. Collective."""
    stepper.engine.import_state(state)
    if ema is not None:
        copy_values({name: value.to(stepper.device) for name, value in state.part("ema").items()}, ema.average)
    copy_values(state.part("method"), stepper.engine.method.own_state())


def load_network(network: Network, weights: dict[str, Tensor], origin: str) -> None:
    """Fill all parameters and buffers. UserError naming the first tensors that do not fit."""
    own = network.state_dict()
    refuse_other_model(own, weights, origin)
    copy_values({name: weights[name] for name in own}, own)


def same_head(own: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether the head in the state `other` of a network computes, once it is copied into `own`, what it computed."""
    mine, theirs = ({k: v.shape for k, v in state.items() if k.startswith("head.")} for state in (own, other))
    if "head.class_bias" not in theirs:  # CSRA's of `model.head_start: prior`, which is 0 until a start at the prior
        mine.pop("head.class_bias", None)
    return mine == theirs


def refuse_other_model(own: dict[str, Tensor], weights: dict[str, Tensor], origin: str) -> None:
    """UserError naming the first tensors of `weights` that do not fit into a network's `own`."""
    wrong = [name for name, value in own.items() if name not in weights or not _fits(weights[name], value)]
    extra = [name for name in weights if name not in own]
    if wrong or extra:
        examples = ", ".join((wrong + extra)[:3])
        raise UserError(
            f"{origin}: is of another model: {len(wrong)} of {counted(len(own), 'tensor')} missing or of another shape "
            f"or kind, {len(extra)} unknown (such as {examples})"
        )


def _fits(found: Tensor, own: Tensor) -> bool:
    """Whether a tensor has the shape and the kind of number, so that copying it loses no more than digits."""
    return found.shape == own.shape and found.is_floating_point() == own.is_floating_point() and not found.is_complex()


def hash_of(module: nn.Module) -> str:
    """sha256 of all parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
