"""The outputs of an evaluation, collected from blocks that several ranks run: all of them, or counts of them."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.config.schema import Config
from masksup.data.split import Part
from masksup.evaluation.blocks import count_blocks
from masksup.metrics.histogram import PairCounts
from masksup.metrics.pairs import probabilities
from masksup.metrics.summary import TOP, decision_threshold
from masksup.runtime.ranks import Group

# Of a block without its padding: logits_BC in fp32 in main memory, broken_B, sample_B.
Forward: TypeAlias = tuple[Tensor, Tensor, Tensor]


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


def outputs_of(forwards: list[Forward]) -> Outputs:
    """Those of several blocks, one after the other."""
    logits_NC = torch.cat([logits_BC for logits_BC, *_ in forwards]).numpy()
    return Outputs(logits_NC, torch.cat([broken_B for _, broken_B, _ in forwards]).numpy())


Found = TypeVar("Found", bound=Outputs | Counted, covariant=True)


class Collector(Protocol[Found]):
    """What becomes of the outputs for a part. After `merge` rank 0 has those of all ranks, and the others none."""

    part: Part

    def add(self, number: int, forward: Forward) -> None: ...

    def merge(self, group: Group) -> None: ...

    def kept(self) -> dict[str, Tensor]:
        """All of it, for a file; on rank 0, of the first so many blocks."""

    def take(self, kept: dict[str, Tensor]) -> None:
        """The reverse, before anything is added."""

    def result(self) -> Found:
        """On rank 0: all of it, once every block was added."""


class Pairs:
    """Every output, in the order of the samples."""

    def __init__(self, part: Part, config: Config) -> None:
        self.part, self._batch, self._total = part, config.eval.batch, count_blocks(part, config)
        self._found: dict[int, Forward] = {}

    def add(self, number: int, forward: Forward) -> None:
        self._found[number] = forward

    def merge(self, group: Group) -> None:
        # What rank 0 has stays out of the gather, which makes room for the largest part of any rank on all of them.
        others = group.gather({} if group.first else self._found)
        parts = [self._found, *others] if group.first else []
        self._found = {number: forward for of_rank in parts for number, forward in of_rank.items()}
        assert sum(map(len, parts)) == len(self._found), "a block came twice"

    def kept(self) -> dict[str, Tensor]:
        forwards = self._in_order()
        return {name: torch.cat(values) for name, values in zip(("logits", "broken", "samples"), zip(*forwards))}

    def take(self, kept: dict[str, Tensor]) -> None:
        split = (torch.split(kept[name], self._batch) for name in ("logits", "broken", "samples"))
        self._found = dict(enumerate(zip(*split)))

    def result(self) -> Outputs:
        assert len(self._found) == self._total, "a block is missing"
        return outputs_of(self._in_order())

    def _in_order(self) -> list[Forward]:
        assert sorted(self._found) == list(range(len(self._found))), "a block is missing"
        forwards = [self._found[number] for number in range(len(self._found))]
        _check_samples(forwards, self.part, 0, min(len(self._found) * self._batch, len(self.part)))
        return forwards


class Counts:
    """Counts of all pairs, and the outputs of the first block, in memory that does not grow with the samples.

    The counts of the ranks are summed as integers, so that the result is the same for any number of them.
    """

    def __init__(self, part: Part, config: Config) -> None:
        threshold = decision_threshold(config.eval.threshold, config.eval.compat)
        self.part, self._batch = part, config.eval.batch
        self._counts = PairCounts(len(part.index.classes), threshold, TOP)
        self._head: Outputs | None = None

    def add(self, number: int, forward: Forward) -> None:
        found, first = outputs_of([forward]), number * self._batch
        samples = _check_samples([forward], self.part, first, min(first + self._batch, len(self.part)))
        self._counts.add(found.logits_NC, np.asarray(self.part.index.labels_NC[samples]), found.broken_N)
        if number == 0:  # dealt to rank 0
            self._head = found

    def merge(self, group: Group) -> None:
        for counted in self._counts.arrays:
            group.sum(torch.from_numpy(counted))
            if not group.first:
                counted[...] = 0

    def kept(self) -> dict[str, Tensor]:
        assert self._head is not None
        counts = {f"counts/{number}": torch.from_numpy(array) for number, array in enumerate(self._counts.arrays)}
        return counts | {
            "logits": torch.from_numpy(self._head.logits_NC), "broken": torch.from_numpy(self._head.broken_N)
        }  # fmt: skip

    def take(self, kept: dict[str, Tensor]) -> None:
        for number, array in enumerate(self._counts.arrays):
            torch.from_numpy(array).copy_(kept[f"counts/{number}"])
        self._head = Outputs(kept["logits"].numpy(), kept["broken"].numpy())

    def result(self) -> Counted:
        assert self._counts.totals[0] == len(self.part), (self._counts.totals[0], len(self.part))
        assert self._head is not None
        return Counted(self._counts, self._head)


def _check_samples(forwards: list[Forward], part: Part, start: int, end: int) -> NDArray[np.int64]:
    """Assert that these are the outputs of rows `start` to `end` of the part, each once. Their numbers in the index."""
    samples = torch.cat([sample_B for *_, sample_B in forwards]).numpy()
    assert np.array_equal(samples, part.numbers(np.arange(start, end))), "an image is missing or came twice"
    return samples
