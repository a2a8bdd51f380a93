"""Calibrations fitted to logits and labels: temperature, Platt's sigmoid, isotonic regression.

Ignored labels are left out. A class with fewer than `least` positives, or negatives, has too little to be fitted to: it
takes the calibration of all such classes fitted together. Shapes: N samples, C classes.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from masksup.decisions.calibration import Calibration, Isotonic, Platt, Row, Temperature, Uncalibrated
from masksup.metrics.pairs import Labels, probabilities

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
COOLEST, HOTTEST = 1e-2, 1e2  # bounds of the temperature; beyond them the logits say nothing, or all


def fit_calibration(kind: str, logits_NC: NDArray[np.floating], labels_NC: Labels, least: int) -> Calibration:
    """The calibration `kind` of these logits; labels 1, 0, -1 (ignored)."""
    z_NC = logits_NC.astype(np.float64)
    judged_NC = labels_NC >= 0
    if kind == "none" or not (labels_NC == 1).any() or not (labels_NC == 0).any():
        return Uncalibrated()
    if kind == "temperature":
        return Temperature(fit_temperature(z_NC[judged_NC], labels_NC[judged_NC] == 1))
    if kind == "platt":
        # Where even all classes together are turned round, nothing can be learnt of them: the sigmoid stays.
        lines = [line or (1.0, 0.0) for line in _by_class(z_NC, labels_NC, least, fit_platt)]
        return Platt(tuple(a for a, _ in lines), tuple(b for _, b in lines))
    assert kind == "isotonic", kind
    steps = [step for step in _by_class(z_NC, labels_NC, least, fit_isotonic) if step is not None]
    return Isotonic(tuple(x for x, _ in steps), tuple(y for _, y in steps))


def fit_temperature(z_N: Floats, present_N: Bools) -> float:
    """T > 0 with the least mean log loss of sigmoid(z / T), by bisection: the loss is convex in 1 / T."""
    low, high = np.log(1 / HOTTEST), np.log(1 / COOLEST)
    for _ in range(60):
        middle = (low + high) / 2
        falling = float(((probabilities(z_N * np.exp(middle)) - present_N) * z_N).sum()) < 0
        low, high = (middle, high) if falling else (low, middle)
    return float(np.exp(-(low + high) / 2))


def fit_platt(z_N: Floats, present_N: Bools) -> tuple[float, float] | None:
    """Slope and offset of Platt's sigmoid with his smoothed targets, by Newton's method with halved steps.

    (Platt 1999; Lin, Lin and Weng 2007.) None where the slope is not positive: the class would be turned round.
    """
    positives = int(present_N.sum())
    negatives = len(z_N) - positives
    target_N = np.where(present_N, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design_N2 = np.stack([z_N, np.ones_like(z_N)], axis=1)
    found_2 = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    loss = _log_loss(design_N2 @ found_2, target_N)
    for _ in range(100):
        p_N = probabilities(design_N2 @ found_2)
        gradient_2 = design_N2.T @ (p_N - target_N)
        if np.abs(gradient_2).max() < 1e-9 * len(z_N):
            break
        hessian_22 = (design_N2 * (p_N * (1 - p_N))[:, None]).T @ design_N2 + 1e-12 * np.eye(2)
        step_2 = np.linalg.solve(hessian_22, gradient_2)
        size = 1.0
        while size > 1e-10 and (new := _log_loss(design_N2 @ (found_2 - size * step_2), target_N)) > loss:
            size /= 2
        if size <= 1e-10:
            break
        found_2, loss = found_2 - size * step_2, new
    return (float(found_2[0]), float(found_2[1])) if found_2[0] > 0 else None


def _log_loss(z_N: Floats, target_N: Floats) -> float:
    return float((np.logaddexp(0, z_N) - target_N * z_N).sum())


def fit_isotonic(z_N: Floats, present_N: Bools) -> tuple[Row, Row]:
    """Knots (logits, probabilities) of the least-squares fit that never falls.

    Neighbouring blocks that fall are pooled; a whole run of them at once, which gives the same blocks as pooling them
    one by one.
    """
    x_K, place_N = np.unique(z_N, return_inverse=True)
    weight_B: Floats = np.bincount(place_N).astype(np.float64)
    mean_B: Floats = np.bincount(place_N, present_N.astype(np.float64)) / weight_B
    block_K = np.arange(len(x_K))
    while True:
        rises_B = np.append(True, np.diff(mean_B) > 0)  # equal blocks are one, too
        if rises_B.all():
            break
        into_B = np.cumsum(rises_B) - 1
        total_B: Floats = np.bincount(into_B, weight_B * mean_B).astype(np.float64)
        weight_B = np.bincount(into_B, weight_B).astype(np.float64)
        mean_B, block_K = total_B / weight_B, into_B[block_K]
    first = np.flatnonzero(np.append(True, np.diff(block_K) > 0))
    last = np.append(first[1:], len(x_K)) - 1
    ends = np.unique(np.concatenate([first, last]))
    value_K = mean_B[block_K].clip(0, 1)
    return tuple(x_K[ends].tolist()), tuple(value_K[ends].tolist())


Made = TypeVar("Made")


def _by_class(
    z_NC: Floats, labels_NC: Labels, least: int, fit: Callable[[Floats, Bools], Made | None]
) -> list[Made | None]:
    """`fit` of each class that has enough of both kinds; of all the others together for each of these."""
    fewest_C = np.minimum((labels_NC == 1).sum(axis=0), (labels_NC == 0).sum(axis=0))
    made: list[Made | None] = [None] * labels_NC.shape[1]
    for c in np.flatnonzero(fewest_C >= max(least, 1)):
        judged_N = labels_NC[:, c] >= 0
        made[c] = fit(z_NC[judged_N, c], labels_NC[judged_N, c] == 1)
    lacking_C = np.array([one is None for one in made])
    together = _together(z_NC, labels_NC, lacking_C, fit) if lacking_C.any() else None
    return [together if one is None else one for one in made]


def _together(
    z_NC: Floats, labels_NC: Labels, lacking_C: Bools, fit: Callable[[Floats, Bools], Made | None]
) -> Made | None:
    """Of the classes that lack a fit; of all classes where these have only one kind of label."""
    for chosen_C in (lacking_C, np.ones_like(lacking_C)):
        labels_NS = labels_NC[:, chosen_C]
        judged_NS = labels_NS >= 0
        if (labels_NS == 1).any() and (labels_NS == 0).any():
            made = fit(z_NC[:, chosen_C][judged_NS], labels_NS[judged_NS] == 1)
            if made is not None:
                return made
    return None
