"""Focal loss (Lin et al., ICCV 2017, arXiv 1708.02002)."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from masksup.errors import UserError
from masksup.losses.pairs import check_exponent, check_share, over_counted, positive_weights, smoothed
from masksup.models.heads.precision import at_least_float32

_TINY = 1e-8  # keeps the derivative of p ** gamma finite at p = 0 for gamma below 1


class FocalLoss(nn.Module):
    """Equation 5 of the paper, one term a pair: -alpha (1-p)^gamma log(p) for a present class,
    -(1-alpha) p^gamma log(1-p) for an absent one.

    gamma: focusing. alpha: weight of the present pairs; None: both kinds weigh 1 (with gamma 0: binary cross
        entropy).
    reduction: mean over the pairs that are not ignored, or their sum.
    class_weights, max_weight, smoothing: as in `bce`.
    """

    positive_weight_C: Tensor

    def __init__(
        self,
        present_C: Tensor,
        absent_C: Tensor,
        *,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        reduction: Literal["mean", "sum"] = "mean",
        class_weights: Literal["none", "balanced"] = "none",
        max_weight: float = 10.0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_exponent("loss.gamma", gamma)
        check_share("loss.smoothing", smoothing)
        if alpha is not None and not 0 < alpha < 1:
            raise UserError(f"loss.alpha: found {alpha}, expected a share between 0 and 1, or null")
        weight_C = positive_weights(present_C, absent_C, class_weights, max_weight)
        self.register_buffer("positive_weight_C", weight_C, persistent=False)
        self.gamma = gamma
        self.weights = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
        self.reduction = reduction
        self.smoothing = smoothing

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        """float logits_BC, int8 targets_BC (1 present, 0 absent, -1 ignored) to a scalar in fp32."""
        logits_BC = at_least_float32(logits_BC)
        p_BC, q_BC = logits_BC.sigmoid().clamp(min=_TINY), logits_BC.neg().sigmoid().clamp(min=_TINY)
        present_BC = -F.logsigmoid(logits_BC) * q_BC**self.gamma * self.positive_weight_C * self.weights[0]
        absent_BC = -F.logsigmoid(-logits_BC) * p_BC**self.gamma * self.weights[1]
        wanted_BC = smoothed(targets_BC, self.smoothing, logits_BC.dtype)
        return over_counted(wanted_BC * present_BC + (1 - wanted_BC) * absent_BC, targets_BC, self.reduction)
