"""The plain head: pool the feature map, then one linear layer."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from masksup.errors import UserError
from masksup.models.heads.maps import MapHead
from masksup.models.heads.precision import at_least_float32, full_precision

# Shapes: B images, D feature width, H x W positions, C classes.


class Linear(MapHead):
    """Pooled features through a linear layer.

    `pool`: "avg" the mean over positions, "max" the maximum, "gwp" the mean of both (MCAR's name for it).
    `bias` adds a bias to the score of each class. `dropout` is the share of pooled features that training drops.
    Trained TResNet and ImageNet classifiers have this form.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        pool: Literal["avg", "max", "gwp"] = "avg",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"model.head.dropout: found {dropout}, expected at least 0 and below 1")
        self.pool = pool
        self.dropout = dropout
        self.fc = nn.Linear(width, classes, bias=bias)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Features of any float type to float32 logits_BC."""
        with full_precision(x_BDHW):
            pooled_BD = pool_positions(at_least_float32(x_BDHW), self.pool)
            pooled_BD = F.dropout(pooled_BD, self.dropout, self.training)
            bias = None if self.fc.bias is None else at_least_float32(self.fc.bias)
            return F.linear(pooled_BD, at_least_float32(self.fc.weight), bias)

    def with_maps(self, x_BDHW: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x_BDHW), self.maps(x_BDHW)

    def maps(self, x_BDHW: Tensor) -> Tensor:
        with full_precision(x_BDHW):
            scores_BCP = at_least_float32(self.fc.weight) @ at_least_float32(x_BDHW).flatten(2)
            if self.fc.bias is not None:
                scores_BCP = scores_BCP + at_least_float32(self.fc.bias)[:, None]
            return scores_BCP.reshape(*scores_BCP.shape[:2], *x_BDHW.shape[2:])

    def start_at(self, logit_C: Tensor) -> None:
        """Give every image these logits, until training finds what tells them apart."""
        nn.init.zeros_(self.fc.weight)
        self.fc.bias.data.copy_(logit_C)

    def reset_classifier(self) -> None:
        self.fc.reset_parameters()


def pool_positions(x_BDHW: Tensor, pool: Literal["avg", "max", "gwp"]) -> Tensor:
    """One vector an image, x_BD, from its feature map (MCAR's pooling styles)."""
    if pool == "avg":
        return x_BDHW.mean(dim=(2, 3))
    if pool == "max":
        return x_BDHW.amax(dim=(2, 3))
    return (x_BDHW.mean(dim=(2, 3)) + x_BDHW.amax(dim=(2, 3))) / 2
