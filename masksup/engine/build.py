"""From a configuration to a network and the method around it."""

import numpy as np
import torch

from masksup.config.components import LOSSES, METHODS
from masksup.config.schema import Config
from masksup.data.split import Part
from masksup.methods.method import Method
from masksup.models.heads.csra import CSRA
from masksup.models.network import Network, build_network


def new_network(config: Config, classes: int) -> Network:
    """A network whose random weights are a function of the seed.

    `model.head_start` decides about a parameter of CSRA; `auto`, which no trained run has, counts as `random`.
    """
    model = config.model
    torch.manual_seed(config.seed)
    network = build_network(model, classes)
    if model.head_start == "prior" and isinstance(network.head, CSRA):
        network.head.add_class_bias()
    return network


def new_method(config: Config, network: Network, classes: int, train: Part | None) -> Method:
    """The method around a network. `train` gives the class counts that some losses weigh by; None: no training."""
    counts = [np.zeros(classes, np.int64) if train is None else train.count(label) for label in (1, 0)]
    present_C, absent_C = map(torch.from_numpy, counts)
    loss = LOSSES.resolve(config.loss.name)(present_C, absent_C, **config.loss.options)
    method: Method = METHODS.resolve(config.method.name)(network, loss, **config.method.options)
    if train is not None:
        method.set_up(config.seed)
    return method


def freeze(network: Network) -> None:
    """Leave only the head trainable."""
    network.backbone.requires_grad_(False)
    network.backbone.eval()
