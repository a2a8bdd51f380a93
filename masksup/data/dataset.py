"""Samples of an index as tensors: by endless position for training, by sample number for evaluation."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from masksup.base.random import draws
from masksup.data.decode import decode_bytes
from masksup.data.decode_pil import BrokenImage
from masksup.data.index import Index
from masksup.data.sampler import Plan
from masksup.data.transforms import Transform

Batch = dict[str, Tensor]
Ignored = Literal["ignore", "negative", "positive"]

MAX_PIXELS = 64_000_000
_GREY = 128


@dataclass(frozen=True, eq=False)
class TrainDataset:
    """What each position of the endless sequence yields: a function of (plan.seed, position).

    ignored: what a label of -1 becomes as a target: itself, 0 or 1.
    broken_budget: share of the samples whose image may be broken before the run stops. 0 raises the UserError
    of the first; else such a sample is mid-grey, all its targets are -1, and `broken` is True.
    members: the samples of the index to train on (plan.samples of them), int64; None is all.
    """

    index: Index
    transform: Transform
    plan: Plan
    ignored: Ignored = "ignore"
    max_pixels: int = MAX_PIXELS
    broken_budget: float = 0.0
    members: NDArray[np.int64] | None = None

    def __getitem__(self, position: int) -> Batch:
        """image uint8 3SS, target int8 C, position int64, sample int64, broken bool."""
        return self.fetch(np.array([position], np.int64))[0]

    def fetch(self, positions: NDArray[np.int64]) -> list[Batch]:
        """The samples at several positions; one permutation for all is much cheaper than one for each."""
        samples = self.plan.samples_at(positions)
        if self.members is not None:
            samples = self.members[samples]
        return [self._at(position, sample) for position, sample in zip(positions.tolist(), samples.tolist())]

    def _at(self, position: int, sample: int) -> Batch:
        rng = draws(self.plan.seed, position, "transform")
        image, broken = _image(self.index, sample, self.transform, rng, self.max_pixels, self.broken_budget > 0)
        target = np.array(self.index.labels_NC[sample], np.int8)
        if self.ignored != "ignore":
            target[target == -1] = int(self.ignored == "positive")
        if broken:
            target[:] = -1
        return {"position": torch.tensor(position), **_sample(image, target, sample, broken)}


@dataclass(frozen=True, eq=False)
class EvalDataset:
    """Samples by number, one deterministic view each; targets keep -1 for ignored.

    members: the samples of the index to score, int64; None is all. Item k is the k-th of them.
    """

    index: Index
    transform: Transform
    max_pixels: int = MAX_PIXELS
    broken_budget: float = 0.0
    members: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.index if self.members is None else self.members)

    def __getitem__(self, item: int) -> Batch:
        """image uint8 3SS, target int8 C, sample int64 (its number in the index), broken bool."""
        sample = item if self.members is None else int(self.members[item])
        rng = draws(0, sample, "transform")
        image, broken = _image(self.index, sample, self.transform, rng, self.max_pixels, self.broken_budget > 0)
        target = np.array(self.index.labels_NC[sample], np.int8)
        return _sample(image, np.full_like(target, -1) if broken else target, sample, broken)

    def fetch(self, items: NDArray[np.int64]) -> list[Batch]:
        """Several samples in the order given."""
        return [self[item] for item in items.tolist()]


def stack(samples: list[Batch]) -> Batch:
    """Samples to one batch; images become B3SS in channels-last storage (their own, so the copy is plain)."""
    # In a worker, default_collate writes into shared memory at once, which saves the copy on sending.
    batch: Batch = default_collate([{**s, "image": s["image"].permute(1, 2, 0)} for s in samples])
    return {**batch, "image": batch["image"].permute(0, 3, 1, 2)}


def _image(
    index: Index, sample: int, transform: Transform, rng: np.random.Generator, max_pixels: int, tolerate: bool
) -> tuple[Tensor, bool]:
    crop = index.crop_N4[sample].tolist() if len(index.crop_N4) else None
    try:
        image = decode_bytes(
            index.read(sample), index.where(sample), exif=index.exif, max_pixels=max_pixels,
            pixel_range=index.pixel_range, crop=crop, whole=index.verified,
        )  # fmt: skip
    except BrokenImage:
        if not tolerate:
            raise
        return torch.full((3, transform.size, transform.size), _GREY, dtype=torch.uint8), True
    return transform(image, rng)[0], False


def _sample(image: Tensor, target: NDArray[np.int8], sample: int, broken: bool) -> Batch:
    return {
        "image": image,
        "target": torch.from_numpy(target),
        "sample": torch.tensor(sample),
        "broken": torch.tensor(broken),
    }
