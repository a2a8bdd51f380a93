"""The only step of a run whose head is solved: rank 0 finds the optimum, and every rank takes it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masksup.base.log import log
from masksup.base.signals import stop_requested
from masksup.config.conflicts import without_effect
from masksup.data.folds import first_copies, stratified_folds
from masksup.data.split import Part
from masksup.engine.feature_batches import targets_of
from masksup.engine.features import Features
from masksup.engine.logistic import Costs, Space, solve
from masksup.engine.strength import FOLDS, stacked, try_penalties
from masksup.errors import UserError
from masksup.evaluation.kept import Stopped
from masksup.losses.bce import BinaryCrossEntropy
from masksup.losses.pairs import smoothed
from masksup.models.heads.linear import Linear, pool_positions
from masksup.training.run import Run

_PIECE = 1024  # samples whose maps are in memory at a time
_LARGE = 3e8  # multiplications that one logit of every image and class takes, from which more threads are faster
_REACHED = 1e-4  # largest gradient at an optimum; rounding leaves more of it where there are many samples

Found = tuple[Tensor, Tensor, dict[str, Any]]  # weight_CD, bias_C, and how they were found


def solve_head(run: Run) -> bool:
    """Solve the head and count that as a step. False if a signal cut it off; nothing is changed then. Collective.

    The numbers do not depend on how many ranks there are, for one alone computes them.
    """
    group, progress, began = run.group, run.progress, time.perf_counter()
    group.beat_without_limit("waiting for the head to be solved")
    found: Found | None = None
    with group.together():
        if group.first:
            found = _found(run)
    found = group.broadcast(found)
    if found is None:
        return False
    weight_CD, bias_C, progress.solved = found
    head = run.network.head
    assert isinstance(head, Linear)
    with torch.no_grad():
        head.fc.weight.copy_(weight_CD)
        head.fc.bias.copy_(bias_C)
    progress.step += 1
    progress.seconds += time.perf_counter() - began
    _record(run, progress.solved)
    return True


def _found(run: Run) -> Found | None:
    """On rank 0: the head's parameters, float64; None if a signal cut it off."""
    unused = without_effect(run.config)
    if unused:
        log.warning(f"optim.name lbfgs solves the head without steps, so these have no effect: {', '.join(unused)}")
    try:
        with _threads_that_help(run):
            return _optimum(run)
    except Stopped:
        return None


def _optimum(run: Run) -> Found:
    space, views, whole = _problem(run)
    l2, tried = _strength(run, space, views, whole)
    optimum = solve(space, stacked(views), l2, each=_go_on)
    if optimum.gradient > _REACHED:
        log.warning(
            f"optim.l2: {l2:g} is so small that the optimum was not reached (gradient {optimum.gradient:.1e}); "
            "the head is as near as the search came; a larger one is solved exactly"
        )
    pairs = max(int((targets_of(run.source.train, run.config)[run.source.train.samples] >= 0).sum()), 1)
    loss = float(stacked(views).at(space.logits(optimum.theta_CP))) / pairs
    facts: dict[str, Any] = {"l2": l2, "loss": loss, "gradient": optimum.gradient}
    if tried:
        facts["cross_validation"] = {"folds": FOLDS, "tried": [[one.l2, one.log_loss / pairs] for one in tried]}
    return *space.classifier(optimum.theta_CP), facts


@contextmanager
def _threads_that_help(run: Run) -> Iterator[None]:
    """One thread for a small problem: thousands of products of milliseconds would wait for a second one, several times
    as long as they take where other processes use the processor, too."""
    head, images = run.network.head, len(run.source.train)
    assert isinstance(head, Linear)
    classes, width = head.fc.out_features, head.fc.in_features
    before = torch.get_num_threads()
    torch.set_num_threads(before if images * min(images, width) * classes > _LARGE else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _go_on() -> None:
    if stop_requested():
        raise Stopped


def _problem(run: Run) -> tuple[Space, list[Costs], Costs]:
    """The features of the images and, where training flips, of their mirror images; what the loss makes of each view,
    which counts as often as it would be drawn; and what it makes of an image as it is."""
    config, part, kept = run.config, run.source.train, run.features["train"]
    head, flip = run.network.head, config.augment.flip
    assert isinstance(head, Linear)
    whole = _costs(run, part)
    x_RD, views = [_pooled(kept.plain, part, head)], [whole]
    if kept.flipped is not None:
        x_RD.append(_pooled(kept.flipped, part, head))
        often = torch.ones(len(part), dtype=torch.float64)
        views = [whole.scaled(often * (1 - flip)), whole.scaled(often * flip)]
    return Space(torch.cat(x_RD)), views, whole


def _pooled(maps: Features, part: Part, head: Linear) -> Tensor:
    """What the head's linear layer sees of each sample, x_ND in float64."""
    numbers_N = part.samples
    pieces = [numbers_N[start : start + _PIECE] for start in range(0, len(numbers_N), _PIECE)]
    return torch.cat([pool_positions(torch.from_numpy(maps[piece]).double(), head.pool) for piece in pieces])


def _costs(run: Run, part: Part) -> Costs:
    """The terms of `loss` (BCE) for each pair: its weights and smoothing, `data.ignored`, and `data.balance`."""
    loss, cumulative_N = run.stepper.engine.method.loss, run.plan.cumulative
    assert isinstance(loss, BinaryCrossEntropy)
    targets_NC = torch.from_numpy(targets_of(part, run.config)[part.samples])
    wanted_NC = smoothed(targets_NC, loss.smoothing, torch.float64)
    counted_NC = (targets_NC >= 0).double()
    costs = Costs(counted_NC * wanted_NC * loss.positive_weight_C.cpu().double(), counted_NC * (1 - wanted_NC))
    if cumulative_N is None:
        return costs
    weight_N = np.diff(cumulative_N, prepend=0.0) * len(part) / cumulative_N[-1]
    return costs.scaled(torch.from_numpy(weight_N))


def _strength(run: Run, space: Space, views: list[Costs], whole: Costs) -> tuple[float, list[Any]]:
    """The penalty, and what was tried to choose it."""
    config, part = run.config, run.source.train
    if config.optim.l2 != "auto":
        return config.optim.l2, []
    image_N = first_copies(part.index)[part.samples]
    images = len(np.unique(image_N))
    if images < FOLDS:
        raise UserError(
            f"optim.l2: auto cross-validates with {FOLDS} folds, but data.train has {images} image"
            f"{'' if images == 1 else 's'}; expected at least {FOLDS}, or a number such as optim.l2=10"
        )
    fold_N = torch.from_numpy(stratified_folds(part.labels_NC == 1, image_N, FOLDS, config.seed))
    tried = try_penalties(space, views, whole, fold_N, _go_on)
    return min(tried, key=lambda one: one.log_loss).l2, tried


def _record(run: Run, facts: dict[str, Any]) -> None:
    tried = facts.get("cross_validation", {}).get("tried", [])
    if tried:
        log.info("the strength of the penalty (optim.l2) is the one with the least loss on held-out training images:")
    for l2, loss in tried:
        log.info(f"l2 {l2:<9.4g} held-out loss {loss:.5f}{'  chosen' if l2 == facts['l2'] else ''}")
    values = {name: facts[name] for name in ("loss", "l2", "gradient")}
    run.record.scalars("train", run.progress.step, run.plan.epoch_shown(run.progress.step), values)
    run.record.mark(run.progress.step)
    log.info(f"solved: l2 {facts['l2']:.4g}, training loss {facts['loss']:.5f}, gradient {facts['gradient']:.1e}")
