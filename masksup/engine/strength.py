"""How strongly to penalise a solved head, by cross-validation on the training part."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from masksup.engine.logistic import Costs, Space, solve

FOLDS = 5
_A_DECADE = 2  # penalties that are tried
_DECADES = 8
_TOLERANCE = 1e-3  # as of `solve`: far below what two penalties differ by


@dataclass(frozen=True)
class Tried:
    l2: float
    log_loss: float
    """Sum over the held-out pairs, in nats."""


def try_penalties(
    space: Space, views: list[Costs], whole: Costs, fold_N: Tensor, each: Callable[[], None]
) -> list[Tried]:
    """The held-out loss of penalties, strongest first, until it has risen twice in a row or 8 decades are through.

    views: what the training rows of each view of the N images cost, the views one after the other in `space`, first
    the images as they are. whole: what a held-out image costs as it is. fold_N: the fold of each image.

    Judged by the loss, not by mean AP: with few positives AP is nearly flat over decades and jumps, while the loss is
    smooth with one minimum, so that the same images choose more surely. It also keeps the probabilities honest.
    """
    folds = [fold for fold in range(FOLDS) if bool((fold_N == fold).any())]
    images = slice(len(fold_N))
    held_out = {fold: whole.scaled((fold_N == fold).double()) for fold in folds}
    learnt = {fold: stacked([view.scaled((fold_N != fold).double()) for view in views]) for fold in folds}
    near: dict[int, Tensor] = {}
    tried: list[Tried] = []
    for l2 in _penalties(_strongest(space, whole)):
        loss = 0.0
        for fold in folds:
            near[fold] = solve(space, learnt[fold], l2, near=near.get(fold), tolerance=_TOLERANCE, each=each).theta_CP
            loss += float(held_out[fold].at(space.logits(near[fold], images)))
        tried.append(Tried(l2, loss))
        if len(tried) > 2 and tried[-3].log_loss < tried[-2].log_loss < tried[-1].log_loss:
            break
    return tried


def _strongest(space: Space, whole: Costs) -> float:
    """A penalty that outweighs the data in every direction; 0 where rows do not differ."""
    pairs_C = (whole.present_RC + whole.absent_RC).sum(0)
    return float(space.variance_K.sum() * pairs_C.max() / 4)


def _penalties(strongest: float) -> list[float]:
    """Round powers of 10 and of its root, from the next above `strongest` down."""
    first = math.ceil(_A_DECADE * math.log10(strongest)) if strongest > 0 else 0
    return [10 ** ((first - step) / _A_DECADE) for step in range(_A_DECADE * _DECADES + 1)]


def stacked(views: list[Costs]) -> Costs:
    """One after the other."""
    return Costs(torch.cat([view.present_RC for view in views]), torch.cat([view.absent_RC for view in views]))
