"""Logits of a part of an index, in the order of its samples, the same for any number of workers or ranks (rule 7)."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masksup.base.log import log
from masksup.config.schema import Config
from masksup.data.split import Part
from masksup.engine.precision import autocast, deterministic_forms, memory_format
from masksup.evaluation.blocks import Block, BlocksOf, count_blocks
from masksup.evaluation.collect import Collector, Forward, Found, Outputs, outputs_of
from masksup.evaluation.kept import Done, Stopped, Unfinished
from masksup.runtime.broken_images import BrokenImages
from masksup.runtime.ranks import SAVE, Group


@dataclass(frozen=True)
class Predictor:
    """What gives logits_BC of a block's inputs; under which settings, where, and in which type it computes."""

    predict: Callable[[Tensor], Tensor]
    config: Config
    device: torch.device
    dtype: torch.dtype


def run_model(predictor: Predictor, blocks: Iterator[Block]) -> Outputs:
    """Outputs in the order of the blocks. Every forward has one shape: logits depend on it in the last bits."""
    return outputs_of(list(_forwards(predictor, blocks)))


def keeps_pairs(part: Part, config: Config) -> bool:
    """Whether all scores of a part are kept, or, where they are too many, only counted.

    What `eval.compat` repeats depends on the order of samples, which counts do not know, so there all are kept.
    """
    pairs = len(part) * len(part.index.classes)
    return config.eval.compat != "none" or pairs <= config.eval.exact_pairs


def collect(
    collector: Collector[Found], predictor: Predictor, blocks: BlocksOf, group: Group, *,
    broken: BrokenImages | None = None, unfinished: Unfinished | None = None,
) -> Found | None:  # fmt: skip
    """What the collector makes of the outputs for its part, whose blocks are dealt to the ranks in turn; on rank 0,
    None elsewhere. Collective between two rounds of blocks.

    broken: those of the part that are known already.
    unfinished: from where an evaluation that was cut off goes on, and where this one keeps what it has done; None: it
    heeds no request to stop.

    Raises Stopped, on all ranks alike, if one of them was asked to stop; UserError once more images are broken than
    allowed.
    """
    part, config = collector.part, predictor.config
    if broken is None:
        broken = BrokenImages(part.index, len(part), config.data.broken_budget)
    total, rank, world = count_blocks(part, config), group.place.rank, group.world

    def keep(done: int) -> None:
        assert unfinished is not None
        group.beat_without_limit("keeping outputs")
        broken.tell(group)
        collector.merge(group)
        if group.first:
            unfinished.keep(Done(done, collector.kept(), sorted(broken.known)), total)
        group.broadcast(None)  # the others wait for the disk, too, instead of for rank 0 at the next block

    done = 0 if unfinished is None else _go_on(collector, unfinished, group, broken, total)
    forwards = _forwards(predictor, blocks(range(done + rank, total, world)))
    for start in range(done, total, world):  # as often on every rank, also where the last round leaves one out
        group.beat("scoring block", f"{start} of {total}")
        wished = 0 if unfinished is None else unfinished.asked()
        if wished >= SAVE and start > done:
            keep(start)
            done = start
        if wished > SAVE:
            raise Stopped
        if start + rank < total:
            forward = next(forwards)
            broken.note(*forward[1:])
            collector.add(start + rank, forward)
    group.beat("gathering scores")
    if unfinished is not None and unfinished.to_the_end and done < total:
        keep(total)
    else:
        broken.tell(group)
        collector.merge(group)
    return collector.result() if group.first else None


def _go_on(collector: Collector[Any], unfinished: Unfinished, group: Group, broken: BrokenImages, total: int) -> int:
    """Take what was kept, on rank 0. How many blocks that are, on all ranks."""
    done: Done | None = None
    group.beat_without_limit("looking for kept outputs")
    if group.first:
        done = unfinished.find()
    if done is not None:
        collector.take(done.outputs)
        broken.found.update(set(done.broken) - broken.known)
        if done.blocks < total:
            log.info(f"evaluation: goes on after {done.blocks} of {total} blocks")
    blocks: int = group.broadcast(0 if done is None else done.blocks)
    return blocks


class _Copy:
    """Logits on their way to main memory."""

    def __init__(self, logits_BC: Tensor, broken_B: Tensor, sample_B: Tensor) -> None:
        self._forward = logits_BC.to("cpu", non_blocking=True), broken_B, sample_B  # into pinned memory
        self._there: torch.cuda.Event | None = None
        if logits_BC.is_cuda:
            self._there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._there.record()

    def forward(self) -> Forward:
        """Waits until they are there."""
        if self._there is not None:
            self._there.synchronize()
        return self._forward


def _forwards(predictor: Predictor, blocks: Iterator[Block]) -> Iterator[Forward]:
    """On a GPU a block is handed over once the next one is under way, so that the GPU never waits for the host."""
    most = int(predictor.device.type == "cuda")
    under_way: deque[_Copy] = deque()
    for copy in _launched(predictor, blocks):
        under_way.append(copy)
        if len(under_way) > most:
            yield under_way.popleft().forward()
    while under_way:
        yield under_way.popleft().forward()


@torch.inference_mode()
def _launched(predictor: Predictor, blocks: Iterator[Block]) -> Iterator[_Copy]:
    device, layout = predictor.device, memory_format(predictor.config.precision)
    for inputs, valid, unreadable, samples in blocks:
        inputs = inputs.to(device, non_blocking=True).to(memory_format=layout)
        with autocast(device, predictor.dtype), deterministic_forms():
            logits_BC = predictor.predict(inputs)
        # Padding comes last, so that the host knows what to cut off and does not ask the device.
        shown_B = valid.numpy()
        count = int(shown_B.sum())
        assert shown_B[:count].all()
        yield _Copy(logits_BC[:count].float(), unreadable[:count], samples[:count])
