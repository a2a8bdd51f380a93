"""The input of an evaluation: blocks of samples by their number, each of the same size whoever runs it (rule 7)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from masksup.config.schema import Config
from masksup.data.loader import eval_loader, workers_of
from masksup.data.masks import FixedMasks, hide, unpack
from masksup.data.split import Part, eval_dataset
from masksup.engine.features import FrozenFeatures


class Masked(NamedTuple):
    """uint8 images_B3SS, each with the packed mask that it is to be seen under, and the mean pixel."""

    images_B3SS: Tensor
    packed_BSb: Tensor
    mean_311: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Tensor:
        """Float pixels 0..1 with the mean in the holes, which the device makes, since a CPU thread is slow at it."""
        images, packed, mean = (each.to(device, non_blocking=non_blocking) for each in self)
        return hide(images, unpack(packed, images.shape[-1]), mean)


# inputs (images B3SS, uint8 or masked, or features BDHW); valid_B, False for padding; broken_B, True where the
# image was unreadable; sample_B, its number in the index.
ImageBlock = tuple[Tensor, Tensor, Tensor, Tensor]
Block = ImageBlock | tuple[Masked, Tensor, Tensor, Tensor]
_CPU = torch.device("cpu")
# The blocks with these numbers, in this order.
BlocksOf: TypeAlias = Callable[[range], Iterator[Block]]


def count_blocks(part: Part, config: Config) -> int:
    """Of how many blocks of `eval.batch` samples a part consists."""
    return -(-len(part) // config.eval.batch)


def image_blocks(part: Part, config: Config, numbers: range, device: torch.device = _CPU) -> Iterator[ImageBlock]:
    """The blocks of `eval.batch` samples that `numbers` names; the last of all is padded to full size.

    They are for `device`: for a GPU they lie in pinned memory, from which they are copied while others are computed.
    """
    workers, kind = workers_of(config.data), config.data.loader
    for block in eval_loader(
        eval_dataset(config, part), config.eval.batch, workers, numbers=numbers, kind=kind,
        pin_memory=device.type == "cuda",
    ):  # fmt: skip
        yield block["image"], block["valid"], block["broken"], block["sample"]


def masked_blocks(blocks: Iterator[ImageBlock], masks: FixedMasks, mean_311: Tensor, numbers: range) -> Iterator[Block]:
    """The same images, each under its own mask."""
    for number, (images, valid, broken, samples) in zip(numbers, blocks):
        rows = np.minimum(np.arange(number * len(images), (number + 1) * len(images)), len(masks.index_N) - 1)
        packed = masks.bank[torch.from_numpy(masks.index_N[rows])]
        yield Masked(images, packed, mean_311), valid, broken, samples


def feature_blocks(features: FrozenFeatures, part: Part, config: Config, numbers: range) -> Iterator[Block]:
    """As `image_blocks`, of features of a frozen backbone."""
    batch = config.eval.batch
    for number in numbers:
        rows = np.arange(number * batch, (number + 1) * batch)
        samples = part.numbers(np.minimum(rows, len(part) - 1))
        broken = torch.zeros(batch, dtype=torch.bool)
        valid = torch.from_numpy(rows < len(part))
        maps = np.asarray(features.plain[samples], np.float32)
        yield torch.from_numpy(maps), valid, broken, torch.from_numpy(samples)
