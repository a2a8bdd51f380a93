"""Where a new head begins (`model.head_start`)."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from masksup.config.schema import Config
from masksup.data.split import Part
from masksup.engine.first_logits import mean_logits
from masksup.methods.method import Method
from masksup.models.heads.csra import CSRA

_HALVINGS = 60  # of an interval of about 20 logits: more than float64 has digits for


def start_at_prior(config: Config, method: Method, train: Part) -> None:
    """Begin each class of a new head at the constant that the loss prefers for the labels of the training part.

    With binary cross entropy this is the log-odds of the class. An ignored label counts as what `data.ignored` makes
    of it. A head that keeps its random weights (CSRA) has these logits in the mean over the first images.
    """
    counts = {label: train.count(label) for label in (1, 0, -1)}
    taken_for = {"positive": 1, "negative": 0}.get(config.data.ignored)
    if taken_for is not None:
        counts[taken_for] = counts[taken_for] + counts[-1]
    present_C, absent_C = (torch.from_numpy(np.asarray(counts[label], np.float64)) for label in (1, 0))
    logit_C = best_constant(method.loss, present_C, absent_C)
    network = method.network
    if isinstance(network.head, CSRA):
        network.head.start_around(logit_C, mean_logits(config, network, train))
        return
    start_at: Callable[[Tensor], None] = network.head.start_at  # type: ignore[assignment]
    start_at(logit_C)


def best_constant(loss: nn.Module, present_C: Tensor, absent_C: Tensor) -> Tensor:
    """The logit of each class, float64 [C], where the gradient of `loss` over its labels vanishes.

    present_C, absent_C: labels of each class; one of each is added. Binary cross entropy gives
    log((present + 1) / (absent + 1)). ASL gives more, because it hardly pushes what is already unlikely. The result
    lies in the range that the log-odds of so many labels have, and at its end where the gradient keeps its sign.
    """
    loss = copy.deepcopy(loss).double().cpu()
    weights_2C = torch.stack([present_C, absent_C]).double() + 1
    targets_2C = torch.tensor([[1], [0]], dtype=torch.int8).expand(2, len(present_C))
    high_C = weights_2C.sum(0).log()
    low_C = -high_C
    for _ in range(_HALVINGS):
        middle_C = (low_C + high_C) / 2
        logits_2C = middle_C.expand(2, -1).clone().requires_grad_()
        (slope_2C,) = torch.autograd.grad(loss(logits_2C, targets_2C), logits_2C)
        falls_C = (slope_2C * weights_2C).sum(0) < 0
        low_C, high_C = torch.where(falls_C, middle_C, low_C), torch.where(falls_C, high_C, middle_C)
    return (low_C + high_C) / 2
