"""What a network says of images of its training part before the first step."""

from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.config.schema import Config
from masksup.data.dataset import stack
from masksup.data.sampler import Plan
from masksup.data.split import Part, make_plan, train_dataset
from masksup.engine.ema import copy_values
from masksup.engine.feature_batches import turned_at
from masksup.engine.features import images_of
from masksup.engine.precision import autocast, choose_dtype, deterministic_forms, placed
from masksup.models.network import Network

ENOUGH = 64
"""Images for a mean of logits. Every rank computes it by itself, so no large batch is gone through as a whole."""


@torch.no_grad()
def mean_logits(config: Config, network: Network, train: Part) -> Tensor:
    """The mean logit of each class, float64 C on the CPU, over the first images that the run will train on.

    These are those of its first step, in whole micro-batches until there are `ENOUGH`, augmented as in that step and
    normalised as in training; nothing is dropped out. They do not depend on the ranks. The network is left as it was.
    """
    plan = make_plan(config, train)
    device = next(network.parameters()).device
    training, before = network.training, {name: value.clone() for name, value in network.named_buffers()}
    _normalise_as_in_training(config, network)
    # A frozen backbone never sees a micro-batch, which may then be larger than what fits.
    each = config.eval.batch if config.model.frozen else plan.micro_batch
    positions = plan.positions(0)[: each * ceil(ENOUGH / each)]
    logits = []
    for start in range(0, len(positions), each):
        images = _images(config, train, plan, positions[start : start + each])
        images = placed(images, device, config.precision)
        with autocast(device, choose_dtype(config.precision, device)), deterministic_forms():
            logits.append(network(images).double().cpu())
    copy_values(before, dict(network.named_buffers()))
    network.train(training)
    return torch.cat(logits).mean(0)


def _images(config: Config, train: Part, plan: Plan, positions: NDArray[np.int64]) -> Tensor:
    """uint8 B3SS: what the training sees at these positions, be it through the features of a frozen backbone."""
    if not config.model.frozen:
        return stack(train_dataset(config, train, plan).fetch(positions))["image"]
    images = stack(images_of(train, config).fetch(train.numbers(plan.samples_at(positions))))["image"]
    turned_B = torch.from_numpy(turned_at(positions, config))
    return torch.where(turned_B[:, None, None, None], images.flip(-1), images)


def _normalise_as_in_training(config: Config, network: Network) -> None:
    network.eval()
    if config.model.frozen or network.backbone.frozen_batch_norm:
        return
    for module in network.backbone.batch_norms:
        module.train()
