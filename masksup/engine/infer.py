"""Logits of a part of an index, in the order of its samples, the same for any number of workers or ranks (rule 7)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.config import Config
from masksup.data.broken import BrokenImages
from masksup.data.dataset import EvalDataset
from masksup.data.loader import eval_loader
from masksup.data.masks import FixedMasks, hide, unpack
from masksup.data.source import Part, transform_settings
from masksup.data.transforms import eval_transform
from masksup.engine.features import FrozenFeatures
from masksup.engine.precision import autocast, memory_format
from masksup.metrics.histogram import PairCounts
from masksup.metrics.pairs import probabilities
from masksup.metrics.summary import TOP, decision_threshold
from masksup.runtime.distributed import Group
from masksup.runtime.place import ALONE, Place

# inputs (images B3SS, uint8 or float 0..1, or features BDHW); valid_B, False for padding; broken_B, True where the
# image was unreadable; sample_B, its number in the index.
Block = tuple[Tensor, Tensor, Tensor, Tensor]
# Of a block without its padding: logits_BC in fp32 on the device, broken_B, sample_B.
Forward = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Outputs:
    """What a model says of a part: logits float32 N x C, and which of its images could not be read (bool N)."""

    logits_NC: NDArray[np.float32]
    broken_N: NDArray[np.bool_]

    @property
    def probabilities_NC(self) -> NDArray[np.float64]:
        """Sigmoid of the logits, float64 N x C."""
        return probabilities(self.logits_NC)


@dataclass(frozen=True)
class Counted:
    """The same of a part too large to keep it: counts of all pairs, and the outputs of the first `eval.batch` rows."""

    counts: PairCounts
    head: Outputs


class Stopped(Exception):
    """A request to stop arrived between two batches; the evaluation is void."""


def image_blocks(part: Part, config: Config, place: Place) -> Iterator[Block]:
    """This rank's blocks of `eval.batch` samples; the last of all is padded to full size."""
    dataset = EvalDataset(
        part.index,
        eval_transform(transform_settings(config.augment), config.model.size),
        config.data.max_pixels,
        config.data.broken_budget,
        part.chosen,
    )
    batch, workers = config.eval.batch, config.data.workers
    for block in eval_loader(dataset, batch, workers, rank=place.rank, world=place.world):
        yield block["image"], block["valid"], block["broken"], block["sample"]


def masked_blocks(
    blocks: Iterator[Block], masks: FixedMasks, mean_311: Tensor, place: Place = ALONE
) -> Iterator[Block]:
    """The same images, each under its own mask, as float pixels 0..1 with the mean in the holes."""
    for number, (images, valid, broken, samples) in enumerate(blocks):
        start = (place.rank + number * place.world) * len(images)
        rows = np.minimum(np.arange(start, start + len(images)), len(masks.index_N) - 1)
        packed = masks.bank[torch.from_numpy(masks.index_N[rows])]
        yield hide(images, unpack(packed, images.shape[-1]), mean_311), valid, broken, samples


def feature_blocks(features: FrozenFeatures, part: Part, batch: int, place: Place = ALONE) -> Iterator[Block]:
    """The same for features of a frozen backbone."""
    for start in range(place.rank * batch, len(part), place.world * batch):
        samples = part.numbers(np.minimum(np.arange(start, start + batch), len(part) - 1))
        valid = torch.arange(start, start + batch) < len(part)
        broken = torch.zeros(batch, dtype=torch.bool)
        yield torch.from_numpy(np.asarray(features.plain[samples])), valid, broken, torch.from_numpy(samples)


def run_model(
    predict: Callable[[Tensor], Tensor], blocks: Iterator[Block], config: Config, device: torch.device,
    dtype: torch.dtype,
) -> Outputs:  # fmt: skip
    """Outputs in the order of the blocks. Every forward has one shape: logits depend on it in the last bits."""
    return _outputs(list(_forwards(predict, blocks, config, device, dtype)))


def keeps_pairs(part: Part, config: Config) -> bool:
    """Whether all scores of a part are kept, or, where they are too many, only counted.

    What `eval.compat` repeats depends on the order of samples, which counts do not know, so there all are kept.
    """
    pairs = len(part) * len(part.index.classes)
    return config.eval.compat != "none" or pairs <= config.eval.exact_pairs


def run_part(
    predict: Callable[[Tensor], Tensor], blocks: Iterator[Block], part: Part, config: Config, device: torch.device,
    dtype: torch.dtype, group: Group, stop: Callable[[], bool] = lambda: False,
    broken: BrokenImages | None = None,
) -> Outputs | None:  # fmt: skip
    """The same for a part whose blocks are dealt to the ranks; on rank 0, None elsewhere.

    Raises Stopped, on all ranks alike, if `stop()`, which may be collective, turns true between two batches;
    UserError once more images are broken than allowed. `broken`: those of the part that are known already.
    """
    mine = {
        number: (logits_BC.cpu(), *others)
        for number, (logits_BC, *others) in _dealt(predict, blocks, part, config, device, dtype, group, stop, broken)
    }
    gathered = group.gather(mine)
    if not group.first:
        return None
    found = {number: forward for of_rank in gathered for number, forward in of_rank.items()}
    assert sum(map(len, gathered)) == len(found), "a block came twice"
    assert sorted(found) == list(range(_count(part, config))), "a block is missing"
    forwards = [found[number] for number in range(len(found))]
    _in_order(forwards, part, 0, len(part))
    return _outputs(forwards)


def count_part(
    predict: Callable[[Tensor], Tensor], blocks: Iterator[Block], part: Part, config: Config, device: torch.device,
    dtype: torch.dtype, group: Group, stop: Callable[[], bool] = lambda: False,
    broken: BrokenImages | None = None,
) -> Counted | None:  # fmt: skip
    """As `run_part`, in memory that does not grow with the samples: each block is counted and forgotten.

    The counts of the ranks are summed as integers, so that the result is the same for any number of them.
    """
    threshold = decision_threshold(config.eval.threshold, config.eval.compat)
    counts = PairCounts(len(part.index.classes), threshold, TOP)
    head: Outputs | None = None
    for number, forward in _dealt(predict, blocks, part, config, device, dtype, group, stop, broken):
        found, first = _outputs([forward]), number * config.eval.batch
        samples = _in_order([forward], part, first, min(first + config.eval.batch, len(part)))
        counts.add(found.logits_NC, np.asarray(part.index.labels_NC[samples]), found.broken_N)
        if number == 0:  # dealt to rank 0
            head = found
    for counted in counts.arrays:
        group.sum(torch.from_numpy(counted))
    assert counts.totals[0] == len(part), (counts.totals[0], len(part))
    if not group.first:
        return None
    assert head is not None
    return Counted(counts, head)


def _in_order(forwards: list[Forward], part: Part, start: int, end: int) -> NDArray[np.int64]:
    """Assert that these are the outputs of rows `start` to `end` of the part, each once. Their numbers in the index."""
    samples = torch.cat([sample_B for *_, sample_B in forwards]).numpy()
    assert np.array_equal(samples, part.numbers(np.arange(start, end))), "an image is missing or came twice"
    return samples


def _count(part: Part, config: Config) -> int:
    return -(-len(part) // config.eval.batch)


def _dealt(
    predict: Callable[[Tensor], Tensor], blocks: Iterator[Block], part: Part, config: Config, device: torch.device,
    dtype: torch.dtype, group: Group, stop: Callable[[], bool], broken: BrokenImages | None,
) -> Iterator[tuple[int, Forward]]:  # fmt: skip
    """The number and outputs of each block of this rank; collective between them."""
    total = _count(part, config)
    if broken is None:
        broken = BrokenImages(part.index, len(part), config.data.broken_budget)
    forwards = _forwards(predict, blocks, config, device, dtype)
    for start in range(0, total, group.world):  # as often on every rank, also where the last round leaves one out
        group.beat("scoring block", f"{start} of {total}")
        if stop():
            raise Stopped
        if start + group.place.rank < total:
            forward = next(forwards)
            broken.note(*forward[1:])
            yield start + group.place.rank, forward
    group.beat("gathering scores")
    broken.tell(group)


@torch.inference_mode()
def _forwards(
    predict: Callable[[Tensor], Tensor], blocks: Iterator[Block], config: Config, device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Forward]:  # fmt: skip
    for inputs, valid, unreadable, samples in blocks:
        inputs = inputs.to(device, non_blocking=True).to(memory_format=memory_format(config.precision))
        with autocast(device, dtype):
            logits_BC = predict(inputs)
        yield logits_BC.float()[valid.to(device)], unreadable[valid], samples[valid]


def _outputs(forwards: list[Forward]) -> Outputs:
    logits_NC = torch.cat([logits_BC for logits_BC, *_ in forwards]).cpu().numpy()
    return Outputs(logits_NC, torch.cat([broken_B for _, broken_B, _ in forwards]).numpy())
