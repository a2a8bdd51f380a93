"""ML-Decoder (Ridnik et al., WACV 2023, arXiv 2111.12933)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.models.heads.attention import FeedForward, GroupLinear, check_dropout, check_positive, check_width
from masksup.models.heads.maps import AttentionHead
from masksup.models.heads.precision import at_least_float32, full_precision

# Shapes: B images, D feature width, H x W = P positions, K group queries, E embedding width, C classes.


class MLDecoder(AttentionHead):
    """One decoder layer without self-attention: K group queries look at the positions, and query k gives the
    logits of the classes k G to (k + 1) G, G = ceil(C / K) (section 2.3 of the paper).

    groups: K, limited to the number of classes; 0: one query a class (the full decoder). queries: "fixed"
    random vectors, as published (they are saved with the weights), or "learned". embedding, heads, feedforward:
    width, attention heads and hidden width of the layer. dropout: on attention weights and inside the layer.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        groups: int = 100,
        queries: Literal["fixed", "learned"] = "fixed",
        embedding: int = 768,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive("model.head.groups", groups, least=0)
        check_positive("model.head.feedforward", feedforward)
        check_width("model.head.embedding", embedding, heads)
        check_dropout(dropout)
        K = min(groups or classes, classes)
        self.embed = nn.Linear(width, embedding)
        query_KE = torch.randn(K, embedding)
        if queries == "learned":
            self.query = nn.Parameter(query_KE)
        else:
            self.register_buffer("query", query_KE)
        self.query_norm = nn.LayerNorm(embedding)
        self.attention = nn.MultiheadAttention(embedding, heads, dropout=dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(embedding)
        self.feedforward = FeedForward(embedding, feedforward, dropout)
        self.classify = GroupLinear(K, embedding, classes)
        self.dropout = dropout

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Features of any float type to float32 logits_BC."""
        query_BKE, memory_BPE = self._queries(x_BDHW)
        seen_BKE, _ = self.attention(query_BKE, memory_BPE, memory_BPE, need_weights=False)
        seen_BKE = F.dropout(seen_BKE, self.dropout, self.training)
        logits_BC: Tensor = self.classify(self.feedforward(self.attention_norm(query_BKE + seen_BKE)))
        return logits_BC

    def start_at(self, logit_C: Tensor) -> None:
        self.classify.start_at(logit_C)

    def attention_maps(self, x_BDHW: Tensor) -> Tensor:
        """The attention of each class's query, the mean of its heads. Classes of one group share a query, and a map."""
        with full_precision(x_BDHW):
            query_BKE, memory_BPE = self._queries(x_BDHW)
            _, shares_BKP = self.attention(query_BKE, memory_BPE, memory_BPE, need_weights=True)
            each = self.classify.weight.shape[2]
            shares_BCP = shares_BKP.repeat_interleave(each, 1)[:, : self.classify.classes]
            return at_least_float32(shares_BCP).reshape(*shares_BCP.shape[:2], *x_BDHW.shape[2:])

    def _queries(self, x_BDHW: Tensor) -> tuple[Tensor, Tensor]:
        """What looks and what it looks at: query_BKE and memory_BPE."""
        x_BPD = x_BDHW.flatten(2).transpose(1, 2).to(self.embed.weight.dtype)
        memory_BPE = F.relu(self.embed(x_BPD))
        query_BKE = self.query.expand(x_BPD.shape[0], -1, -1)
        # What is left of the self-attention block: its residual connection and its norm.
        return self.query_norm(query_BKE + F.dropout(query_BKE, self.dropout, self.training)), memory_BPE
