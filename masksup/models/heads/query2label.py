"""Query2Label (Liu et al., 2021, arXiv 2107.10834)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.models.heads.attention import FeedForward, GroupLinear, check_dropout, check_positive, check_width
from masksup.models.heads.maps import AttentionHead
from masksup.models.heads.precision import at_least_float32, full_precision

# Shapes: B images, D feature width, H x W = P positions, E embedding width, C classes (one query each).


class Query2Label(AttentionHead):
    """Label queries, one a class, look at the encoded positions layer after layer; each gives its class's logit
    (equations 1 to 5 of the paper).

    embedding, heads, feedforward: width, attention heads and hidden width of every layer. encoder_layers,
    decoder_layers: how many (encoder_layers may be 0). self_attention: queries look at each other in every
    decoder layer but the first, where they have not seen the image yet. dropout: on attention weights and
    inside every layer.
    Positions are told apart by sines and cosines of their place, so the map may have any size.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        embedding: int = 512,
        heads: int = 8,
        feedforward: int = 2048,
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        self_attention: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_width("model.head.embedding", embedding, heads, multiple=4)
        check_positive("model.head.feedforward", feedforward)
        check_positive("model.head.encoder_layers", encoder_layers, least=0)
        check_positive("model.head.decoder_layers", decoder_layers)
        check_dropout(dropout)
        self.embed = nn.Linear(width, embedding)
        self.query = nn.Parameter(torch.randn(classes, embedding))
        layer = (embedding, heads, feedforward, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer, self_attention and k > 0) for k in range(decoder_layers))
        self.classify = GroupLinear(classes, embedding, classes)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Features of any float type to float32 logits_BC."""
        query_BCE, memory_BPE, place_PE = self._encode(x_BDHW)
        h_BCE = torch.zeros_like(query_BCE)
        for layer in self.decoder:
            h_BCE = layer(h_BCE, query_BCE, memory_BPE, place_PE)
        logits_BC: Tensor = self.classify(h_BCE)
        return logits_BC

    def start_at(self, logit_C: Tensor) -> None:
        self.classify.start_at(logit_C)

    def attention_maps(self, x_BDHW: Tensor) -> Tensor:
        """The attention of each class's query in the last decoder layer, the mean of its heads."""
        with full_precision(x_BDHW):
            query_BCE, memory_BPE, place_PE = self._encode(x_BDHW)
            h_BCE = torch.zeros_like(query_BCE)
            *before, last = self.decoder
            for layer in before:
                h_BCE = layer(h_BCE, query_BCE, memory_BPE, place_PE)
            assert isinstance(last, DecoderLayer)
            shares_BCP = last.shares(h_BCE, query_BCE, memory_BPE, place_PE)
            return at_least_float32(shares_BCP).reshape(*shares_BCP.shape[:2], *x_BDHW.shape[2:])

    def _encode(self, x_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What looks, what it looks at and where that is: query_BCE, memory_BPE, place_PE."""
        x_BPD = x_BDHW.flatten(2).transpose(1, 2).to(self.embed.weight.dtype)
        memory_BPE = self.embed(x_BPD)
        place_PE = sine_positions(x_BDHW.shape[2], x_BDHW.shape[3], memory_BPE)
        for layer in self.encoder:
            memory_BPE = layer(memory_BPE, place_PE)
        return self.query.expand(x_BPD.shape[0], -1, -1), memory_BPE, place_PE


class EncoderLayer(nn.Module):
    """Self-attention of the positions, then the feed-forward block; the norms come after the residuals."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, feedforward, dropout)
        self.dropout = dropout

    def forward(self, x_BPE: Tensor, place_PE: Tensor) -> Tensor:
        placed_BPE = x_BPE + place_PE
        seen_BPE, _ = self.attention(placed_BPE, placed_BPE, x_BPE, need_weights=False)
        x_BPE = self.norm(x_BPE + F.dropout(seen_BPE, self.dropout, self.training))
        out: Tensor = self.feedforward(x_BPE)
        return out


class DecoderLayer(nn.Module):
    """Self-attention of the queries (or none), their attention to the positions, then the feed-forward block."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, self_attention: bool) -> None:
        super().__init__()
        self.mutual = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True) if self_attention else None
        self.mutual_norm = nn.LayerNorm(width) if self_attention else None
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, feedforward, dropout)
        self.dropout = dropout

    def forward(self, h_BCE: Tensor, query_BCE: Tensor, memory_BPE: Tensor, place_PE: Tensor) -> Tensor:
        h_BCE = self._after_mutual(h_BCE, query_BCE)
        seen_BCE, _ = self.attention(h_BCE + query_BCE, memory_BPE + place_PE, memory_BPE, need_weights=False)
        h_BCE = self.attention_norm(h_BCE + F.dropout(seen_BCE, self.dropout, self.training))
        out: Tensor = self.feedforward(h_BCE)
        return out

    def shares(self, h_BCE: Tensor, query_BCE: Tensor, memory_BPE: Tensor, place_PE: Tensor) -> Tensor:
        """By which shares each query looks at the positions, the mean of the heads: shares_BCP."""
        h_BCE = self._after_mutual(h_BCE, query_BCE)
        shares_BCP: Tensor = self.attention(h_BCE + query_BCE, memory_BPE + place_PE, memory_BPE, need_weights=True)[1]
        return shares_BCP

    def _after_mutual(self, h_BCE: Tensor, query_BCE: Tensor) -> Tensor:
        if self.mutual is None or self.mutual_norm is None:
            return h_BCE
        named_BCE = h_BCE + query_BCE
        seen_BCE, _ = self.mutual(named_BCE, named_BCE, h_BCE, need_weights=False)
        out: Tensor = self.mutual_norm(h_BCE + F.dropout(seen_BCE, self.dropout, self.training))
        return out


def sine_positions(H: int, W: int, like: Tensor) -> Tensor:
    """Encoding of each position of an H x W map, HW x E: half of E for the row, half for the column.

    A coordinate is scaled to (0, 2 pi], so that maps of other sizes share one frame; frequency k is
    10000 ** (-2 k / (E / 2)), its sine and cosine side by side.
    """
    E = like.shape[-1]
    frequency = 10000 ** (-torch.arange(0, E // 2, 2, device=like.device, dtype=torch.float32) / (E // 2))
    halves = []
    for n in (H, W):
        coordinate = torch.arange(1, n + 1, device=like.device, dtype=torch.float32) / n * (2 * math.pi)
        angle = coordinate[:, None] * frequency
        halves.append(torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1))
    rows, columns = halves
    place = torch.cat([rows[:, None].expand(H, W, -1), columns[None].expand(H, W, -1)], dim=-1)
    return place.flatten(0, 1).to(like.dtype)
