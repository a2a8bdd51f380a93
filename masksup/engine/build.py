"""From a configuration to a network and the method around it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from masksup.config.components import LOSSES, METHODS
from masksup.config.schema import Config
from masksup.data.split import Part
from masksup.engine.first_logits import mean_logits
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


def start_at_prior(config: Config, method: Method, train: Part) -> None:
    """Begin each class of a new head at its share of the training part, as the loss sees it (`model.head_start`).

    The odds are (present + 1) / (absent + 1), times the weight that the loss gives to what is present; an ignored
    label counts as what `data.ignored` makes of it. Focal terms and the margin of ASL are not accounted for. A head
    that keeps its random weights (CSRA) has these logits in the mean over the first images.
    """
    counts = {label: train.count(label) for label in (1, 0, -1)}
    taken_for = {"positive": 1, "negative": 0}.get(config.data.ignored)
    if taken_for is not None:
        counts[taken_for] = counts[taken_for] + counts[-1]
    logit_C = torch.from_numpy(np.log((counts[1] + 1) / (counts[0] + 1)))
    weight_C = getattr(method.loss, "positive_weight_C", None)
    if weight_C is not None:
        logit_C = logit_C + weight_C.double().cpu().log()
    network = method.network
    if isinstance(network.head, CSRA):
        network.head.start_around(logit_C, mean_logits(config, network, train))
        return
    start_at: Callable[[Tensor], None] = network.head.start_at  # type: ignore[assignment]
    start_at(logit_C)


def freeze(network: Network) -> None:
    """Leave only the head trainable."""
    network.backbone.requires_grad_(False)
    network.backbone.eval()
