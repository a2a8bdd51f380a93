"""Parts of the transformer heads: the feed-forward block, the class-wise linear layer, checks of their options."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.errors import UserError
from masksup.models.heads.precision import at_least_float32, full_precision

# Shapes: B images, K queries, G classes a query, E embedding width.


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, and the residual connection with its norm around them."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(self, x_BKE: Tensor) -> Tensor:
        hidden = F.dropout(F.relu(self.up(x_BKE)), self.dropout, self.training)
        out: Tensor = self.norm(x_BKE + F.dropout(self.down(hidden), self.dropout, self.training))
        return out


class GroupLinear(nn.Module):
    """Query k gives the logits of its own G classes: h_BKE to logits_B(KG), of which the first `classes` are kept.

    In float32 whatever autocast does around it.
    """

    def __init__(self, queries: int, width: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.empty(queries, width, math.ceil(classes / queries)))
        self.bias = nn.Parameter(torch.zeros(classes))
        bound = 1 / math.sqrt(width)
        nn.init.uniform_(self.weight, -bound, bound)

    def start_at(self, logit_C: Tensor) -> None:
        """Give every image these logits, until training finds what tells them apart."""
        nn.init.zeros_(self.weight)
        self.bias.data.copy_(logit_C)

    def forward(self, h_BKE: Tensor) -> Tensor:
        with full_precision(h_BKE):
            logits_BKG = torch.einsum("bke,keg->bkg", h_BKE.to(self.weight.dtype), self.weight)
            return at_least_float32(logits_BKG.flatten(1)[:, : self.classes] + self.bias)


def check_width(key: str, width: int, heads: int, multiple: int = 1) -> None:
    """UserError unless `width` is a multiple of `heads` (model.head.heads) and of `multiple`."""
    if heads < 1 or width < 1 or width % heads or width % multiple:
        also = f" and of {multiple}" if multiple > 1 else ""
        raise UserError(f"{key}: found {width}, expected a multiple of model.head.heads ({heads}){also}")


def check_positive(key: str, value: int, least: int = 1) -> None:
    """UserError unless `value` is at least `least`."""
    if value < least:
        raise UserError(f"{key}: found {value}, expected at least {least}")


def check_dropout(dropout: float) -> None:
    """UserError unless in [0, 1)."""
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"model.head.dropout: found {dropout}, expected at least 0 and below 1")
