"""Logits of a part of an index, in the order of its samples, the same for any number of workers or ranks (rule 7)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.config import Config
from masksup.data.dataset import EvalDataset
from masksup.data.loader import eval_loader
from masksup.data.masks import FixedMasks, hide, unpack
from masksup.data.source import Part, transform_settings
from masksup.data.transforms import eval_transform
from masksup.engine.features import FrozenFeatures
from masksup.engine.precision import autocast, memory_format

# inputs (images B3SS, uint8 or float 0..1, or features BDHW); valid_B, False for padding; broken_B, True where the
# image was unreadable.
Block = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Outputs:
    """What a model says of a part: logits float32 N x C, and which of its images could not be read (bool N)."""

    logits_NC: NDArray[np.float32]
    broken_N: NDArray[np.bool_]

    @property
    def probabilities_NC(self) -> NDArray[np.float64]:
        """Sigmoid in float64: in float32 all logits above 17 would tie at 1."""
        return 1 / (1 + np.exp(-self.logits_NC.astype(np.float64)))


class Stopped(Exception):
    """A request to stop arrived between two batches; the evaluation is void."""


def image_blocks(part: Part, config: Config) -> Iterator[Block]:
    """Blocks of `eval.batch` samples; the last is padded to full size."""
    dataset = EvalDataset(
        part.index,
        eval_transform(transform_settings(config.augment), config.model.size),
        config.data.max_pixels,
        config.data.broken_budget,
        part.samples,
    )
    for block in eval_loader(dataset, config.eval.batch, config.data.workers):
        yield block["image"], block["valid"], block["broken"]


def masked_blocks(blocks: Iterator[Block], masks: FixedMasks, mean_311: Tensor) -> Iterator[Block]:
    """The same images, each under its own mask, as float pixels 0..1 with the mean in the holes."""
    done = 0
    for images, valid, broken in blocks:
        rows = np.minimum(np.arange(done, done + len(images)), len(masks.index_N) - 1)
        packed = masks.bank[torch.from_numpy(masks.index_N[rows])]
        yield hide(images, unpack(packed, images.shape[-1]), mean_311), valid, broken
        done += len(images)


def feature_blocks(features: FrozenFeatures, part: Part, batch: int) -> Iterator[Block]:
    """The same for features of a frozen backbone."""
    for start in range(0, len(part), batch):
        numbers = np.minimum(np.arange(start, start + batch), len(part) - 1)
        valid = torch.arange(start, start + batch) < len(part)
        yield (
            torch.from_numpy(np.asarray(features.plain[part.samples[numbers]])),
            valid,
            torch.zeros(batch, dtype=torch.bool),
        )


@torch.inference_mode()
def run_model(
    predict: Callable[[Tensor], Tensor],
    blocks: Iterator[Block],
    config: Config,
    device: torch.device,
    dtype: torch.dtype,
    stop: Callable[[], bool] = lambda: False,
) -> Outputs:
    """Logits in the order of the blocks. Every forward has one shape: logits depend on it in the last bits.

    Raises Stopped if `stop()` turns true between two batches.
    """
    logits: list[Tensor] = []
    broken: list[Tensor] = []
    for inputs, valid, unreadable in blocks:
        if stop():
            raise Stopped
        inputs = inputs.to(device, non_blocking=True).to(memory_format=memory_format(config.precision))
        with autocast(device, dtype):
            logits_BC = predict(inputs)
        logits.append(logits_BC.float()[valid.to(device)])
        broken.append(unreadable[valid])
    return Outputs(torch.cat(logits).cpu().numpy(), torch.cat(broken).numpy())
