"""A network's and an optimiser's state out of DeepSpeed and back, whole and keyed by parameter name (rule 5).

DeepSpeed's own checkpoints are pickles tied to a world size. Here every rank joins in the gathering of each tensor,
one after the other and in the same order, and on the way back takes its part of what all ranks read. Padding of flat
partitions holds junk and is never read.

Parameters are fp32, so that the working copies are the masters and one of the two is enough.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from masksup.engine.ema import copy_values
from masksup.models.network import Network

Named = list[tuple[str, nn.Parameter]]


def export_network(network: Network, parameters: Named, stage: int) -> dict[str, Tensor]:
    """Whole parameters and this rank's buffers, by name. Collective at stage 3."""
    state = network.kept_state()
    if stage == 3:
        from deepspeed.utils import safe_get_full_fp32_param

        state |= {name: safe_get_full_fp32_param(parameter) for name, parameter in parameters}
    return state


def import_network(network: Network, parameters: Named, saved: dict[str, Tensor], stage: int) -> None:
    """Put parameters (the working copies) and buffers back. Collective at stage 3."""
    if stage == 3:
        from deepspeed.runtime.zero import GatheredParameters

        for name, parameter in parameters:
            with GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.copy_(saved[name])
    own = {name: value for name, value in network.kept_state().items() if stage < 3 or name not in dict(parameters)}
    copy_values({name: saved[name] for name in own}, own)


def export_optimizer(parameters: Named, torchs: torch.optim.Optimizer, zeros: Any, stage: int) -> dict[str, Tensor]:
    """`optim/<state>/<parameter>` of torch's optimiser inside of DeepSpeed's (`zeros`). Collective above stage 0."""
    if stage == 0:
        return {
            f"optim/{key}/{name}": value
            for name, parameter in parameters
            for key, value in torchs.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
    from deepspeed.utils import safe_get_full_optimizer_state

    flats = _flat_partitions(zeros, stage)
    keys, steps = _keys_of(torchs, flats)
    if keys and stage < 3:
        # With several groups it links the states after the step of the first, when the others have none yet.
        zeros._hp_optimizer_states_linked = False
        zeros._lazy_init_hp_params_optimizer_state()
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters:
        for key in keys:
            tensors[f"optim/{key}/{name}"] = safe_get_full_optimizer_state(parameter, key)
        if steps is not None:
            tensors[f"optim/step/{name}"] = steps
    return tensors


def import_optimizer(
    parameters: Named, torchs: torch.optim.Optimizer, zeros: Any, saved: dict[str, Tensor], stage: int
) -> None:
    """Put `<state>/<parameter>` back, whichever engine wrote it."""
    torchs.state.clear()
    keys = sorted({name.split("/", 1)[0] for name in saved})
    if stage == 0:
        for name, parameter in parameters:
            for key in keys:
                if f"{key}/{name}" in saved:
                    torchs.state[parameter][key] = _like(saved[f"{key}/{name}"], parameter)
        return
    flats = _flat_partitions(zeros, stage)
    moments = [key for key in keys if key != "step"]
    for flat in flats if keys else ():
        torchs.state[flat] = {key: torch.zeros_like(flat) for key in moments}
        if "step" in keys:
            torchs.state[flat]["step"] = _step_count(saved).to(flat.device)
    if moments and stage < 3:
        zeros._hp_optimizer_states_linked = False
        zeros._lazy_init_hp_params_optimizer_state()
    for name, parameter in parameters:
        for key in moments:
            if f"{key}/{name}" in saved:  # a parameter that never had a gradient has no state under `ddp`
                _set(parameter, saved[f"{key}/{name}"].to(flats[0].device), key, stage)


def _set(parameter: nn.Parameter, whole: Tensor, key: str, stage: int) -> None:
    """This rank's part of an optimiser's state."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if stage < 3:
        safe_set_full_optimizer_state(parameter, whole.contiguous(), key)
        return
    # The full form raises on the last rank where the length does not divide, and the others then wait for ever.
    length, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()  # type: ignore[attr-defined]
    padded = torch.zeros(length * torch.distributed.get_world_size(), dtype=whole.dtype, device=whole.device)
    padded[: whole.numel()] = whole.flatten()
    safe_set_local_optimizer_state(parameter, padded[length * rank : length * (rank + 1)], key)


def _flat_partitions(zeros: Any, stage: int) -> list[Tensor]:
    flats: list[Tensor] = zeros.fp32_partitioned_groups_flat if stage == 3 else zeros.single_partition_of_fp32_groups
    return flats


def _keys_of(optimizer: torch.optim.Optimizer, flats: Iterable[Tensor]) -> tuple[list[str], Tensor | None]:
    """Names of the states that are as long as the parameters, and the number of steps where it is counted."""
    for flat in flats:
        state = optimizer.state.get(flat, {})
        keys = [key for key, value in state.items() if isinstance(value, Tensor) and value.shape == flat.shape]
        if state:
            return keys, state.get("step")
    return [], None


def _step_count(saved: dict[str, Tensor]) -> Tensor:
    """Every parameter takes part in every step, so one count serves all."""
    counts = [value for name, value in saved.items() if name.startswith("step/")]
    return torch.stack([count.float() for count in counts]).max()


def _like(value: Tensor, parameter: nn.Parameter) -> Tensor:
    if value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter).copy_(value)
