"""The outputs of a saved model for a part of the data, kept or counted."""

from collections.abc import Iterator
from functools import partial

import torch

from masksup.base.place import ALONE
from masksup.data.masks import FixedMasks
from masksup.data.split import Part
from masksup.engine.compiling import compile_networks
from masksup.engine.precision import choose_device, choose_dtype, memory_format
from masksup.evaluation.blocks import Block, image_blocks, masked_blocks
from masksup.evaluation.collect import Counted, Outputs
from masksup.evaluation.forward import count_part, run_part
from masksup.evaluation.kept import Unfinished
from masksup.runtime.ranks import Group
from masksup.saved.open import Trained


def predict_part(
    trained: Trained, part: Part, group: Group, masks: FixedMasks | None = None, unfinished: Unfinished | None = None
) -> Outputs | None:
    """Outputs for a part, on rank 0 (None elsewhere), under the run's own settings of size, batch and precision.

    `masks` hide part of each image. `unfinished`, and what it raises: as in `run_part`.
    """
    device, dtype = ready(trained)
    blocks = partial(_blocks, trained, part, masks)
    return run_part(trained.method.predict, blocks, part, trained.config, device, dtype, group, unfinished=unfinished)


def count_pairs(
    trained: Trained, part: Part, group: Group, masks: FixedMasks | None = None, unfinished: Unfinished | None = None
) -> Counted | None:
    """The same counted, for a part of which too many pairs would have to be kept."""
    device, dtype = ready(trained)
    blocks = partial(_blocks, trained, part, masks)
    return count_part(trained.method.predict, blocks, part, trained.config, device, dtype, group, unfinished=unfinished)


def ready(trained: Trained) -> tuple[torch.device, torch.dtype]:
    """Move the model to where it runs, compiled where its run was. Its device and the type it computes in."""
    config = trained.config
    device = choose_device(config.precision)
    trained.method.to(device).to(memory_format=memory_format(config.precision))
    compile_networks(trained.method, config.precision)
    return device, choose_dtype(config.precision, device)


def _blocks(trained: Trained, part: Part, masks: FixedMasks | None, numbers: range) -> Iterator[Block]:
    blocks = image_blocks(part, trained.config, numbers)
    return blocks if masks is None else masked_blocks(blocks, masks, trained.network.mean.cpu(), numbers)


def predict_alone(trained: Trained, part: Part, masks: FixedMasks | None = None) -> Outputs:
    """The same in one process."""
    outputs = predict_part(trained, part, Group(ALONE, trained.config.parallel), masks=masks)
    assert outputs is not None
    return outputs
