"""The outputs of a saved model for a part of the data, kept or counted."""

from collections.abc import Iterator
from functools import partial

import torch

from masksup.base.place import ALONE
from masksup.data.masks import FixedMasks
from masksup.data.split import Part
from masksup.engine.compiling import compile_networks
from masksup.engine.precision import choose_device, choose_dtype, placed
from masksup.evaluation.blocks import Block, image_blocks, masked_blocks
from masksup.evaluation.collect import Collector, Found, Outputs, Pairs
from masksup.evaluation.forward import Predictor, collect
from masksup.evaluation.kept import Unfinished
from masksup.runtime.ranks import Group
from masksup.saved.open import Trained


def outputs_for(
    collector: Collector[Found], trained: Trained, group: Group, masks: FixedMasks | None = None,
    unfinished: Unfinished | None = None,
) -> Found | None:  # fmt: skip
    """What the collector makes of a part, on rank 0 (None elsewhere), under the run's own settings of size, batch and
    precision.

    `masks` hide part of each image. `unfinished`, and what it raises: as in `collect`.
    """
    predictor = Predictor(trained.method.predict, trained.config, *ready(trained))
    blocks = partial(_blocks, trained, collector.part, masks, predictor.device)
    return collect(collector, predictor, blocks, group, unfinished=unfinished)


def ready(trained: Trained) -> tuple[torch.device, torch.dtype]:
    """Move the model to where it runs, compiled where its run was. Its device and the type it computes in."""
    config = trained.config
    device = choose_device(config.precision)
    placed(trained.method, device, config.precision)
    compile_networks(trained.method, config.precision)
    return device, choose_dtype(config.precision, device)


def _blocks(
    trained: Trained, part: Part, masks: FixedMasks | None, device: torch.device, numbers: range
) -> Iterator[Block]:
    blocks = image_blocks(part, trained.config, numbers, device)
    return blocks if masks is None else masked_blocks(blocks, masks, trained.network.mean, numbers)


def predict_alone(trained: Trained, part: Part, masks: FixedMasks | None = None) -> Outputs:
    """All outputs for a part, in one process."""
    outputs = outputs_for(Pairs(part, trained.config), trained, Group(ALONE, trained.config.parallel), masks)
    assert outputs is not None
    return outputs
