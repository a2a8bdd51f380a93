"""Tensors that may differ between ranks, such as the statistics of batch norm: all of them, and their mean (rule 5)."""

import hashlib
import math

import torch
from torch import Tensor

from masksup.runtime.ranks import Group


def apart(tensors: dict[str, Tensor], group: Group) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Of tensors with the same names and shapes on all ranks those that are not equal: their mean, on every rank in
    main memory, and on rank 0 the tensors of each rank. Collective.
    """
    if group.world == 1:
        return {}, []
    digests = group.all({name: _digest(value) for name, value in tensors.items()})
    unequal = [name for name in tensors if any(other[name] != digests[0][name] for other in digests)]
    if not unequal:
        return {}, []
    mine = {name: tensors[name].detach().to("cpu", copy=True).contiguous() for name in unequal}
    of_ranks = [_unpacked(packed, mine) for packed in group.gather(_packed(mine))]
    mean = {name: _mean([values[name] for values in of_ranks]) for name in unequal} if group.first else mine
    return _unpacked(group.broadcast(_packed(mean)), mine), of_ranks


def _mean(values: list[Tensor]) -> Tensor:
    """In float64; of integers, such as batch norm's number of batches, rounded down."""
    if values[0].is_floating_point():
        return torch.stack([value.double() for value in values]).mean(0).to(values[0].dtype)
    return (torch.stack([value.long() for value in values]).sum(0) // len(values)).to(values[0].dtype)


def _digest(value: Tensor) -> bytes:
    return hashlib.blake2b(_bytes(value).numpy().tobytes(), digest_size=16).digest()


def _bytes(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _packed(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([_bytes(value) for value in tensors.values()])


def _unpacked(packed: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `_packed`, for tensors of the names, shapes and types of `like`."""
    found: dict[str, Tensor] = {}
    start = 0
    for name, value in like.items():
        length = math.prod(value.shape) * value.element_size()
        # A copy, because a view of another type asks for an aligned start.
        found[name] = packed[start : start + length].clone().view(value.dtype).reshape(value.shape)
        start += length
    return found
