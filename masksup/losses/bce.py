"""Binary cross entropy, the loss of CSRA, MSL and MCAR."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from masksup.losses.pairs import over_counted, positive_weights, smoothed
from masksup.models.heads.precision import at_least_float32


class BinaryCrossEntropy(nn.Module):
    """Mean over the pairs (image, class) that are not ignored; methods.md 1.1.

    class_weights: none, or `balanced`: the positive term of class c is weighted by (absent_c / present_c) of the
        training index, limited to `max_weight`, so that a rare class is not drowned by its absences.
    smoothing: targets move this far from 0 and 1 towards one half.
    """

    positive_weight_C: Tensor

    def __init__(
        self,
        present_C: Tensor,
        absent_C: Tensor,
        *,
        class_weights: Literal["none", "balanced"] = "none",
        max_weight: float = 10.0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        weight_C = positive_weights(present_C, absent_C, class_weights, max_weight)
        self.register_buffer("positive_weight_C", weight_C, persistent=False)
        self.smoothing = smoothing

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        """float logits_BC, int8 targets_BC (1 present, 0 absent, -1 ignored) to a scalar in fp32."""
        logits_BC = at_least_float32(logits_BC)
        loss_BC = F.binary_cross_entropy_with_logits(
            logits_BC,
            smoothed(targets_BC, self.smoothing, logits_BC.dtype),
            pos_weight=self.positive_weight_C,
            reduction="none",
        )
        return over_counted(loss_BC, targets_BC, "mean")
