"""Micro-batches of kept features, in the place of images."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.base.place import ALONE, Place
from masksup.base.random import uniform
from masksup.config.schema import Config
from masksup.data.ahead import ahead
from masksup.data.loader import MicroBatches, workers_of
from masksup.data.sampler import Plan
from masksup.data.split import Part
from masksup.engine.features import FrozenFeatures


def feature_batches(
    features: FrozenFeatures, part: Part, plan: Plan, start_step: int, config: Config, place: Place = ALONE,
    *, pin_memory: bool = False,
) -> Iterator[list[dict[str, Tensor]]]:  # fmt: skip
    """As `train_loader` gives them, the micro-batches of this rank, with `features` in the place of `image`.

    A thread reads them ahead, so that the training does not wait for the disk. With `data.workers` 0 it reads itself.
    """
    labels_NC = targets_of(part, config)

    def read(positions: NDArray[np.int64]) -> dict[str, Tensor]:
        batch = _batch(features, labels_NC, part, plan, positions, config)
        return {name: value.pin_memory() for name, value in batch.items()} if pin_memory else batch

    units = MicroBatches(plan, start_step, place.rank, place.world)
    batches = ahead(read, units, min(workers_of(config.data), 1), config.data.prefetch)
    for step in range(start_step, plan.total_steps):
        yield [next(batches) for _ in plan.share(step, place.rank, place.world).indices]


def targets_of(part: Part, config: Config) -> NDArray[np.int8]:
    """The labels of the whole index of `part` as the loss takes them: ignored pairs -1, or what `data.ignored` says."""
    labels_NC = np.array(part.index.labels_NC)
    if config.data.ignored != "ignore":
        labels_NC[labels_NC == -1] = int(config.data.ignored == "positive")
    return labels_NC


def _batch(
    features: FrozenFeatures, labels_NC: NDArray[np.int8], part: Part, plan: Plan,
    positions: NDArray[np.int64], config: Config,
) -> dict[str, Tensor]:  # fmt: skip
    samples = part.numbers(plan.samples_at(positions))
    turned = turned_at(positions, config)
    maps = np.empty((len(samples), *features.plain.shape[1:]), np.float32)
    maps[~turned] = features.plain[samples[~turned]]
    if features.flipped is not None:
        maps[turned] = features.flipped[samples[turned]]
    return {
        "features": torch.from_numpy(maps),
        "target": torch.from_numpy(labels_NC[samples]),
        "sample": torch.from_numpy(samples),
        "position": torch.from_numpy(positions),
    }


def turned_at(positions: NDArray[np.int64], config: Config) -> NDArray[np.bool_]:
    """Which positions of the training look at the mirror image."""
    turned: NDArray[np.bool_] = uniform(positions, config.seed, "flip") < config.augment.flip
    return turned
