"""What the losses share: class weights from the index, smoothed targets, and the mean over the counted pairs."""

from typing import Literal

import torch
from torch import Tensor

from masksup.errors import UserError


def positive_weights(
    present_C: Tensor, absent_C: Tensor, kind: Literal["none", "balanced"], max_weight: float
) -> Tensor:
    """Weight of each class's positive term, float32: 1, or absences over presences, limited to `max_weight`."""
    if kind == "none":
        return torch.ones_like(present_C, dtype=torch.float32)
    return (absent_C / present_C.clamp(min=1)).float().clamp(max=max_weight)


def smoothed(targets_BC: Tensor, smoothing: float, dtype: torch.dtype) -> Tensor:
    """Ternary targets as numbers in [0, 1], moved `smoothing` of the way towards one half; ignored pairs as absent."""
    return (targets_BC == 1).to(dtype) * (1 - smoothing) + 0.5 * smoothing


def over_counted(loss_BC: Tensor, targets_BC: Tensor, reduction: Literal["mean", "sum"]) -> Tensor:
    """Sum, or mean, of `loss_BC` over the pairs that are not ignored (target -1); 0 where there is none."""
    counted_BC = targets_BC >= 0
    total = (loss_BC * counted_BC).sum()
    return total if reduction == "sum" else total / counted_BC.sum().clamp(min=1)


def check_share(key: str, value: float) -> None:
    """UserError unless `value` is in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise UserError(f"{key}: found {value}, expected at least 0 and below 1")


def check_exponent(key: str, value: float) -> None:
    """UserError unless `value` is at least 0."""
    if not value >= 0.0:
        raise UserError(f"{key}: found {value}, expected 0 or more")
