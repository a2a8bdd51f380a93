"""Asymmetric loss (Ridnik et al., ICCV 2021, arXiv 2009.14119)."""

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.losses.pairs import check_exponent, check_share, over_counted, positive_weights, smoothed
from masksup.models.heads.precision import at_least_float32

# Below this a focusing weight is 0 in fp32 for every exponent in use, and its derivative may be infinite.
_TINY = 1e-8


class AsymmetricLoss(nn.Module):
    """Equations 4 to 6 of the paper: -(1-p)^gamma_pos log(p) for a present class, -q^gamma_neg log(1-q) for an
    absent one, where q = max(p - clip, 0) and p is the probability.

    gamma_neg, gamma_pos: focusing of the absent and the present pairs. clip: probability below which an absent
        class costs nothing (the paper's m). All three 0: binary cross entropy.
    focal_gradient: let gradient flow through the focusing factors. False: they are constants, as in the
        released code.
    reduction: mean over the pairs that are not ignored, as the other losses; or their sum, as in the released
        code, whose learning rates belong to it.
    class_weights, max_weight, smoothing: as in `bce`.

    Logarithms are taken of the logits, so the loss stays right where the released code clamps p at 1e-8.
    """

    positive_weight_C: Tensor

    def __init__(
        self,
        present_C: Tensor,
        absent_C: Tensor,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        focal_gradient: bool = False,
        reduction: Literal["mean", "sum"] = "mean",
        class_weights: Literal["none", "balanced"] = "none",
        max_weight: float = 10.0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_exponent("loss.gamma_neg", gamma_neg)
        check_exponent("loss.gamma_pos", gamma_pos)
        check_share("loss.clip", clip)
        check_share("loss.smoothing", smoothing)
        weight_C = positive_weights(present_C, absent_C, class_weights, max_weight)
        self.register_buffer("positive_weight_C", weight_C, persistent=False)
        self.gamma_neg, self.gamma_pos, self.clip = gamma_neg, gamma_pos, clip
        self.focal_gradient = focal_gradient
        self.reduction = reduction
        self.smoothing = smoothing

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        """float logits_BC, int8 targets_BC (1 present, 0 absent, -1 ignored) to a scalar in fp32."""
        logits_BC = at_least_float32(logits_BC)
        with nullcontext() if self.focal_gradient else torch.no_grad():
            focus_present_BC = logits_BC.neg().sigmoid().clamp(min=_TINY) ** self.gamma_pos
            focus_absent_BC = (logits_BC.sigmoid() - self.clip).clamp(min=_TINY) ** self.gamma_neg
        present_BC = -F.logsigmoid(logits_BC) * focus_present_BC * self.positive_weight_C
        absent_BC = -self._log_absent(logits_BC) * focus_absent_BC
        wanted_BC = smoothed(targets_BC, self.smoothing, logits_BC.dtype)
        return over_counted(wanted_BC * present_BC + (1 - wanted_BC) * absent_BC, targets_BC, self.reduction)

    def _log_absent(self, logits_BC: Tensor) -> Tensor:
        """log(1 - max(p - clip, 0)), exact for large logits where nothing is clipped."""
        if self.clip == 0:
            return F.logsigmoid(-logits_BC)
        return (logits_BC.neg().sigmoid() + self.clip).clamp(max=1).log()
