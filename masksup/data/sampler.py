"""Which samples each step trains on: computed from (seed, step), never stored.

Positions are an endless sequence 0, 1, 2, ...; epoch = position // samples. The cursor of a run is one
integer, its step, and 10**9 samples cost what 10**3 cost.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from masksup.base.random import Int64s, permuted, uniform
from masksup.base.words import counted
from masksup.data.labels import Labels, SparseLabels, present
from masksup.errors import UserError

LastBatch = Literal["continue", "partial", "drop"]


@dataclass(frozen=True)
class Plan:
    """The order of a whole training run.

    last_batch: "continue" fills every step and crosses epoch borders (step s takes positions s B to (s+1) B);
    "partial" ends each epoch with a shorter step; "drop" leaves the rest of each epoch out.
    blocks: deal the micro-batches of a step to the ranks in blocks of neighbours, which `parallel.sum: tree` adds; else
    in turn.
    cumulative: running sum of the samples' weights (N float64, may be memory-mapped) for balanced sampling,
    see `class_balance`; None draws every sample once an epoch.
    """

    samples: int
    global_batch: int
    micro_batch: int
    epochs: float
    last_batch: LastBatch
    seed: int
    blocks: bool = True
    cumulative: npt.NDArray[np.float64] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError("training set: found 0 samples, expected at least 1")
        if self.micro_batch < 1 or self.global_batch < 1 or self.global_batch % self.micro_batch:
            raise UserError(
                f"batch.global: found {self.global_batch}, expected a multiple of batch.micro {self.micro_batch}"
            )
        if self.last_batch == "drop" and self.samples < self.global_batch:
            raise UserError(
                f"data.last_batch: found 'drop' with {counted(self.samples, 'sample')}, "
                f"expected at least one full batch of {self.global_batch}"
            )
        assert self.cumulative is None or len(self.cumulative) == self.samples

    @property
    def steps_per_epoch(self) -> float:
        """Optimiser steps an epoch takes; a fraction under "continue"."""
        return float(self._steps_per_epoch)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run: enough for `epochs`, rounded up to a full step."""
        # Decimal text, so that 0.1 epochs of 100 steps are 10 steps and not 11.
        return math.ceil(Fraction(str(self.epochs)) * self._steps_per_epoch)

    @property
    def _steps_per_epoch(self) -> Fraction:
        exact = Fraction(self.samples, self.global_batch)
        rounding = {"continue": lambda x: x, "partial": math.ceil, "drop": math.floor}
        return Fraction(rounding[self.last_batch](exact))

    def epoch_of(self, step: int) -> float:
        """Epochs completed before `step`, as a fraction."""
        return float(step / self._steps_per_epoch)

    def epoch_shown(self, step: int) -> float:
        """The same for records and people: a run ends at its `epochs`, though its last step may reach beyond them."""
        return min(self.epoch_of(step), self.epochs)

    def ends_epoch(self, step: int) -> int | None:
        """The epochs completed after `step` steps, if the last of these steps completed one; else None.

        A step may complete several epochs (fewer samples than a batch); the count includes them all.
        """
        completed = math.floor(step / self._steps_per_epoch)
        return completed if step > 0 and completed > math.floor((step - 1) / self._steps_per_epoch) else None

    def positions(self, step: int) -> Int64s:
        """The endless positions that `step` consumes, in order; int64 B (shorter only under "partial")."""
        if self.last_batch == "continue":
            first = step * self.global_batch
            return np.arange(first, first + self.global_batch, dtype=np.int64)
        epoch, step_in_epoch = divmod(step, int(self._steps_per_epoch))
        start = step_in_epoch * self.global_batch
        stop = min(start + self.global_batch, self.samples)
        return epoch * self.samples + np.arange(start, stop, dtype=np.int64)

    def samples_before(self, step: int) -> int:
        """How many samples the steps before `step` took together."""
        if self.last_batch != "partial":
            return step * self.global_batch
        epoch, step_in_epoch = divmod(step, int(self._steps_per_epoch))
        return epoch * self.samples + step_in_epoch * self.global_batch

    def micro_batches(self, step: int) -> list[Int64s]:
        """The positions of `step`, cut into micro-batches (the last may be shorter only under "partial")."""
        positions = self.positions(step)
        return [positions[i : i + self.micro_batch] for i in range(0, len(positions), self.micro_batch)]

    def share(self, step: int, rank: int, world: int) -> "Share":
        """What a rank does of `step` (rule 1)."""
        samples = len(self.positions(step))
        return share_of(-(-samples // self.micro_batch), samples, rank, world, self.blocks)

    def samples_at(self, positions: npt.ArrayLike) -> Int64s:
        """The sample at each position; int64 in [0, samples).

        Balanced: an epoch's N positions are N equal strata of the total weight in permuted order, with one
        uniform draw in each: a sample of weight w is expected N w / sum(w) times an epoch.
        """
        positions = np.asarray(positions, dtype=np.int64)
        epoch, within = np.divmod(positions, self.samples)
        order = permuted(within, epoch, self.samples, self.seed)
        if self.cumulative is None:
            return order
        target = (order + uniform(positions, self.seed, "balance")) / self.samples * float(self.cumulative[-1])
        found = np.searchsorted(self.cumulative, target, side="right")
        return np.minimum(found, self.samples - 1).astype(np.int64)


@dataclass(frozen=True)
class Share:
    """What a rank does of a step: `indices` of its micro-batches among the `count` of all ranks, and all `samples`.

    Where micro-batches are dealt in turn, a rank that a short step leaves without one goes through one of another rank
    with weight 0, because the library's sum over ranks needs every rank; `weightless` is then true.
    """

    indices: tuple[int, ...]
    count: int
    samples: int
    weightless: bool = False


def share_of(micro_batches: int, samples: int, rank: int, world: int, blocks: bool = True) -> Share:
    """The share of `rank` in a step of so many micro-batches and samples: a block of them, or every `world`-th one."""
    if blocks:
        return Share(tuple(block(rank, world, micro_batches)), micro_batches, samples)
    mine = tuple(range(rank, micro_batches, world))
    return Share(mine or (0,), micro_batches, samples, weightless=not mine)


def block(rank: int, world: int, count: int) -> range:
    """The neighbours among so many micro-batches that a rank has: as many as any other, or one more."""
    return range(rank * count // world, (rank + 1) * count // world)


def class_balance(labels: Labels) -> npt.NDArray[np.float64]:
    """Cumulative weights as if a class were drawn uniformly and then one of its samples uniformly; float64 N.

    Only labels of 1 count. Samples without any positive form one further class of their own.
    """
    if isinstance(labels, SparseLabels) or labels.size > _AT_ONCE:
        return _sparse_class_balance(labels)
    positive = labels == 1
    positive = np.column_stack([positive, ~positive.any(axis=1)])
    counts = positive.sum(axis=0)
    return np.cumsum(positive @ (1.0 / np.maximum(counts, 1)))


_AT_ONCE = 1 << 26  # labels: what fits has the bits that it always had


def _sparse_class_balance(labels: Labels) -> npt.NDArray[np.float64]:
    """The same but for rounding, in memory and time that go with the positives, of which few classes have many."""
    samples, classes = labels.shape
    sample_P, class_P = present(labels)
    lacks_N = np.bincount(sample_P, minlength=samples) == 0
    weight_C = 1.0 / np.maximum(np.bincount(class_P, minlength=classes), 1)
    own_N = np.bincount(sample_P, weights=weight_C[class_P], minlength=samples)
    return np.cumsum(np.where(lacks_N, 1.0 / max(int(lacks_N.sum()), 1), own_N))
