"""`batch.micro: auto`: the largest micro-batch that fits into memory, found before the first step."""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from masksup.base import memory
from masksup.base.exhausted import exhausted
from masksup.base.place import Place, most_ranks
from masksup.base.words import counted
from masksup.config.auto import adds_as_tree, with_micro, with_sum
from masksup.config.schema import Config
from masksup.data.split import Source, open_source
from masksup.engine.build import new_method, new_network
from masksup.engine.parallel.tree import most_gradients
from masksup.engine.precision import autocast, choose_device, choose_dtype, placed, set_numerics
from masksup.errors import UserError
from masksup.runtime.ranks import Group

_SHARE = 0.8  # of what is free: sums of gradients, loader processes and the allocator's gaps need some, too
_STATES = 4
"""Tensors of a parameter's size beside it and its gradient: Adam's two, the average, the copy that is scored."""
_TRIED = 8  # images at most: what fewer take has little to do with their number
_CLEAR_REFS = Path("/proc/self/clear_refs")

# Shapes: B images, S x S pixels, C classes.


def largest_micro(config: Config, source: Source, place: Place) -> int:
    """The largest micro-batch that fits on this rank: a divisor of `batch.global`, at most the share of a rank.

    UserError where not even one image fits. Not collective.
    """
    ranks = most_ranks(place)
    sizes = candidates(config, ranks)
    if config.model.frozen:  # whose features are kept: the head alone takes next to nothing
        return sizes[-1]
    set_numerics(config.precision, place.local_world)
    device = choose_device(config.precision)
    parameters = new_network(config, len(source.classes)).parameters()
    own = sum(value.numel() * value.element_size() for value in parameters)
    room = _SHARE * free_bytes(device, place.local_world) - _STATES * own
    peak = _peaks(config, source, device)

    def left(size: int) -> float:
        """Room for the step itself: gradients of earlier micro-batches wait in the tree, and one is flat to be sent."""
        if not adds_as_tree(with_sum(config)):
            return room
        return room - own * (most_gradients(config.batch.global_ // size, ranks) - 1 + (ranks > 1))

    fits = fitting(sizes, peak, left, 2 * own)
    # A GPU says that it is full; a process on the CPU would be killed, so there the line has to do.
    while device.type == "cuda" and len(fits) > 1 and peak(fits[-1]) > left(fits[-1]):
        fits.pop()
    if not fits:
        raise UserError(
            f"batch.micro: auto found no room for {counted(sizes[0], 'image')} at a time: beside the optimiser "
            f"{max(room, 0) / 2**30:.1f} GiB are free for a rank; a smaller model.size or "
            "model.grad_checkpointing=true needs less"
        )
    return fits[-1]


def fitting(sizes: list[int], peak: Callable[[int], float], room: Callable[[int], float], fixed: float) -> list[int]:
    """Those of the ascending `sizes` whose peak is at most the `room` of that size, in bytes. Small ones are tried; the
    others lie on the line through the last two of these. `fixed`: bytes that no image takes, as those of weights."""
    tried = {0: fixed}
    for size in sizes:
        if size > _TRIED or line(tried, size) > room(size):
            break
        tried[size] = peak(size)
    return [size for size in sizes if tried.get(size, line(tried, size)) <= room(size)]


def candidates(config: Config, ranks: int) -> list[int]:
    """The micro-batches that may be chosen, ascending. Under ZeRO each rank has as many of them as the others."""
    whole = config.batch.global_
    divisors = [size for size in range(1, max(whole // ranks, 1) + 1) if whole % size == 0]
    if config.parallel.engine == "deepspeed" and config.parallel.zero_stage > 0:
        divisors = [size for size in divisors if whole // size % ranks == 0] or divisors
    return divisors


def line(tried: dict[int, float], size: int) -> float:
    """What `size` images take, in bytes, as far as the largest that were tried say it."""
    if len(tried) == 1:
        return next(iter(tried.values()))
    (before, low), (last, high) = list(tried.items())[-2:]
    return high + max(high - low, 0.0) * (size - last) / (last - before)


def free_bytes(device: torch.device, ranks_here: int) -> float:
    """Of the GPU, or of main memory for each of the ranks of this machine."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return memory.free_bytes() / ranks_here


def _peaks(config: Config, source: Source, device: torch.device) -> Callable[[int], float]:
    """A function that gives, for a number of images, the bytes that a step of them takes at its peak; infinity where
    the device runs out."""

    def peak(size: int) -> float:
        before = _count_anew(device)
        try:
            _step(config, source, device, size)
        except Exception as error:
            if exhausted(error) is None:
                raise
            return float("inf")
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        return _highest(device) - before

    return peak


def _step(config: Config, source: Source, device: torch.device, size: int) -> None:
    """Forward and backward on pixels without meaning."""
    classes = len(source.classes)
    network = placed(new_network(config, classes), device, config.precision)
    network.backbone.frozen_batch_norm = True  # one image may have no variance, and takes no less
    method = new_method(config, network, classes, source.train).to(device).train()
    with autocast(device, choose_dtype(config.precision, device)):
        loss, _ = method(_batch(size, config.train_size, classes, device))
    loss.backward()


def _batch(size: int, side: int, classes: int, device: torch.device) -> dict[str, Tensor]:
    number_B = torch.arange(size, device=device)
    return {
        "image": torch.zeros(size, 3, side, side, dtype=torch.uint8, device=device),
        "target": torch.zeros(size, classes, dtype=torch.int8, device=device),
        "sample": number_B, "position": number_B, "progress": torch.zeros((), device=device),
    }  # fmt: skip


def _count_anew(device: torch.device) -> int:
    """Bytes in use; what is highest is counted from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(AttributeError):  # glibc alone: give back what earlier work has left to the allocator
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # where a container forbids it, what was highest before counts, too
        _CLEAR_REFS.write_text("5")
    return _status("VmRSS")


def _highest(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    """A figure of this process in bytes, as the kernel has it."""
    rows = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(rows[name].split()[0])


def with_common_micro(config: Config, group: Group) -> Config:
    """`config` with a micro-batch that fits on every rank, if it asks for the largest. Collective."""
    if config.batch.micro != "auto":
        return config
    fits = 0
    with group.together():
        fits = largest_micro(config, open_source(config.data, config.seed), group.place)
    return with_micro(config, min(group.all(fits)))
