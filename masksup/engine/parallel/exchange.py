"""How ranks add their nodes of the tree (`tree.py`): every rank ends with the sum of all micro-batches."""

import functools

import torch
import torch.distributed as dist
from torch import Tensor

from masksup.data.sampler import block
from masksup.engine.parallel.tree import Node, combined, meets_by_halving, tiles


def tree_sum(parts: list[Tensor], like: Tensor, leaves: int) -> Tensor:
    """The sum of a step of so many micro-batches from this rank's nodes. Collective.

    parts: a flat tensor a node of this rank (`tiles` of its `block`), each of the length and type of `like`, which the
    ranks divide. They may be overwritten.
    """
    if _by_way_of_memory(like):
        return tree_sum([part.cpu() for part in parts], like.cpu(), leaves).to(like.device)
    if _of_ranks(dist.get_world_size(), leaves)[1]:
        return _by_halving(parts[0])
    return _by_chunks(parts, like, leaves)


@functools.lru_cache
def _of_ranks(world: int, leaves: int) -> tuple[list[list[Node]], bool]:
    """The nodes that each rank adds up by itself, and whether their sum can go by halving."""
    nodes = [tiles(block(rank, world, leaves), leaves) for rank in range(world)]
    return nodes, meets_by_halving(nodes, leaves)


def _by_halving(values: Tensor) -> Tensor:
    """Recursive halving and doubling, in place."""
    rank, kept, distance = dist.get_rank(), (0, len(values)), 1
    swaps = []
    while distance < dist.get_world_size():
        peer, middle = rank ^ distance, sum(kept) // 2
        lower, upper = (kept[0], middle), (middle, kept[1])
        kept, given = (lower, upper) if peer > rank else (upper, lower)
        mine = values[slice(*kept)]
        mine += _swapped(values[slice(*given)], torch.empty_like(mine), peer)
        swaps.append((kept, given, peer))
        distance *= 2
    for kept, given, peer in reversed(swaps):
        _swapped(values[slice(*kept)], values[slice(*given)], peer)
    return values


def _swapped(given: Tensor, place: Tensor, peer: int) -> Tensor:
    """`place`, filled with what the peer gives for `given`."""
    for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, given, peer), dist.P2POp(dist.irecv, place, peer)]):
        work.wait()
    return place


def _by_chunks(parts: list[Tensor], like: Tensor, leaves: int) -> Tensor:
    """Each rank adds one chunk of every node that exists anywhere, then all gather the chunks."""
    world, rank = dist.get_world_size(), dist.get_rank()
    chunk = len(like) // world
    nodes, _ = _of_ranks(world, leaves)
    assert len(parts) == len(nodes[rank])
    lengths = [len(own) * chunk for own in nodes]
    sent = torch.cat([part[at * chunk : (at + 1) * chunk] for at in range(world) for part in parts] or [like[:0]])
    got = like.new_empty(sum(lengths))
    dist.all_to_all_single(got, sent, lengths, [lengths[rank]] * world)
    in_order = [node for own in nodes for node in own]
    mine = combined((0, leaves), dict(zip(in_order, torch.split(got, chunk), strict=True)))
    whole = torch.empty_like(like)
    dist.all_gather_into_tensor(whole, mine.contiguous())
    return whole


def in_order(rows: Tensor, leaves: int) -> Tensor:
    """The rows of all micro-batches (V x W) from those of this rank's block (its micro-batches x W). Collective."""
    if _by_way_of_memory(rows):
        return in_order(rows.cpu(), leaves).to(rows.device)
    world = dist.get_world_size()
    counts = [len(block(rank, world, leaves)) for rank in range(world)]
    longest = max(counts)
    padded = rows.new_zeros(longest, rows.shape[1])
    padded[: len(rows)] = rows
    all_rows = rows.new_empty(world * longest, rows.shape[1])
    dist.all_gather_into_tensor(all_rows, padded)
    return torch.cat([part[:count] for part, count in zip(torch.split(all_rows, longest), counts, strict=True)])


def _by_way_of_memory(values: Tensor) -> bool:
    """Whether tensors on a GPU travel by gloo, which does not send them from there."""
    return values.is_cuda and dist.get_backend() == "gloo"
