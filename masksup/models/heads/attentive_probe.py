"""Attentive probe: efficient probing (Psomas et al., ICLR 2026, arXiv 2506.10178)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.errors import UserError
from masksup.models.heads.attention import check_positive
from masksup.models.heads.maps import AttentionHead
from masksup.models.heads.precision import at_least_float32, full_precision

# Shapes: B images, D feature width, H x W = P positions, M queries, E values a query, C classes.


class AttentiveProbe(AttentionHead):
    """M learned queries look at the positions, each by its own shares, and a linear layer reads what they see.

    The features are their own keys: share_mp = softmax over p of (query_m . x_p / sqrt(D)). One projection gives the
    values, and its outputs are split over the queries: query m sees value_m (sum over p of share_mp x_p), which is E
    numbers. All M E of them, normalised, go through the classifier. The paper's code normalises over the batch; here
    it is over the numbers of one image, which does not depend on the micro-batch.

    queries: how many learned queries there are, M. embedding: M E, width of all values together, a multiple of M;
    null: that of the features (the paper's), rounded up to a multiple of M.
    """

    def __init__(self, width: int, classes: int, *, queries: int = 32, embedding: int | None = None) -> None:
        super().__init__()
        check_positive("model.head.queries", queries)
        if embedding is not None and (embedding < 1 or embedding % queries):
            raise UserError(
                f"model.head.embedding: found {embedding}, expected a multiple of model.head.queries ({queries})"
            )
        E = math.ceil((embedding or width) / queries)
        self.query = nn.Parameter(0.02 * torch.randn(queries, width))
        self.value = nn.Parameter(torch.empty(queries, E, width))
        bound = 1 / math.sqrt(width)
        nn.init.uniform_(self.value, -bound, bound)
        self.fc = nn.Linear(queries * E, classes)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Features of any float type to float32 logits_BC."""
        with full_precision(x_BDHW):
            _, seen_BME = self._look(x_BDHW)
            return F.linear(seen_BME.flatten(1), at_least_float32(self.fc.weight), at_least_float32(self.fc.bias))

    def start_at(self, logit_C: Tensor) -> None:
        """Give every image these logits, until training finds what tells them apart."""
        nn.init.zeros_(self.fc.weight)
        self.fc.bias.data.copy_(logit_C)

    def attention_maps(self, x_BDHW: Tensor) -> Tensor:
        """The mean of the queries' shares, each query weighed by what it adds to the logit of the class.

        One that speaks against the class has no weight; where none speaks for it, all have the same.
        """
        with full_precision(x_BDHW):
            share_BMP, seen_BME = self._look(x_BDHW)
            weight_CME = at_least_float32(self.fc.weight).view(-1, *seen_BME.shape[1:])
            added_BCM = torch.einsum("bme,cme->bcm", seen_BME, weight_CME).clamp(min=1e-12)
            map_BCP = (added_BCM / added_BCM.sum(-1, keepdim=True)) @ share_BMP
            return map_BCP.reshape(*map_BCP.shape[:2], *x_BDHW.shape[2:])

    def _look(self, x_BDHW: Tensor) -> tuple[Tensor, Tensor]:
        """Where each query looks and what it sees there: share_BMP, and seen_BME as the classifier takes it."""
        x_BPD = at_least_float32(x_BDHW).flatten(2).transpose(1, 2)
        query_MD = at_least_float32(self.query) / math.sqrt(x_BPD.shape[-1])
        share_BMP = (query_MD @ x_BPD.transpose(1, 2)).softmax(-1)
        # Projected after the sum over positions, which gives the same and costs a P-th.
        seen_BME = torch.einsum("bmd,med->bme", share_BMP @ x_BPD, at_least_float32(self.value))
        return share_BMP, F.layer_norm(seen_BME, seen_BME.shape[1:])
