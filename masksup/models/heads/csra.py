"""Class-specific residual attention (Zhu and Wu, ICCV 2021, arXiv 2108.02456)."""

import math

import torch
from torch import Tensor, nn

from masksup.base.words import counted
from masksup.errors import UserError
from masksup.models.heads.maps import AttentionHead
from masksup.models.heads.precision import at_least_float32, full_precision

# Shapes: B images, D feature width, H x W = P positions, K heads, C classes.

# The published temperature lists by number of heads; infinity stands for the maximum over positions.
TEMPERATURES: dict[int, tuple[float, ...]] = {
    1: (1,),
    2: (1, math.inf),
    4: (1, 2, 4, math.inf),
    6: (1, 2, 3, 4, 5, math.inf),
    8: (1, 2, 3, 4, 5, 6, 7, math.inf),
}
MAXIMUM_BY_NUMBER = 99  # the released code writes the maximum as temperature 99


class CSRA(AttentionHead):
    """Sum over K heads of: mean score + `lam` * attention score, per class (equations 1 to 6 of the paper).

    `heads` picks a published temperature list: 1, 2, 4, 6 or 8. `temperatures` replaces the list, one a head;
    99 or .inf takes the maximum. `lam` is the weight of the attention score, the paper's lambda.
    `normalize` divides every score by the L2 norm of its classifier. `bias` adds one to every score before that; the
    paper and the released code have none, one released file does (checkpoints.md 3).

    `weight` is [K, C, D]. Head k of a released file, `classifier.multi_head.{k}.head.weight` [C, D, 1, 1], is
    `weight[k]` once its last two dimensions are dropped; the norm is never divided into the stored weights.

    `class_bias` [C], only after `add_class_bias` (`model.head_start: prior`), is added to the sum over heads.
    """

    sharpness_K11: Tensor
    take_max_K1: Tensor
    class_bias: nn.Parameter | None

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        heads: int = 1,
        lam: float = 0.1,
        temperatures: list[float] | None = None,
        normalize: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.temperatures = _temperatures(heads, temperatures)
        hard_K = [math.isinf(T) for T in self.temperatures]
        # On the device before the first forward: a copy from the host there would make it wait.
        # A maximum head runs the softmax with sharpness 0, and its result is not used.
        sharpness_K = torch.tensor([0.0 if hard else T for T, hard in zip(self.temperatures, hard_K)])
        self.register_buffer("sharpness_K11", sharpness_K[:, None, None], persistent=False)
        self.register_buffer("take_max_K1", torch.tensor(hard_K)[:, None], persistent=False)
        self.lam = lam
        self.normalize = normalize
        self.weight = nn.Parameter(torch.empty(heads, classes, width))
        self.bias = nn.Parameter(torch.empty(heads, classes)) if bias else None
        self.register_parameter("class_bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The default of a 1x1 convolution, as in the original: uniform within 1 / sqrt(D)."""
        bound = 1 / math.sqrt(self.weight.shape[-1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def add_class_bias(self) -> None:
        """Give every class a bias of its own, 0 so far, which no norm divides."""
        self.class_bias = nn.Parameter(self.weight.new_zeros(self.weight.shape[1]))

    def start_around(self, logit_C: Tensor, mean_C: Tensor) -> None:
        """Move the mean logit of each class from `mean_C`, what it is without the bias of classes, to `logit_C`.

        The weights stay as they were drawn: at 0 their norm would divide by 0.
        """
        assert self.class_bias is not None
        self.class_bias.data.copy_(logit_C - mean_C)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Features of any float type to float32 logits_BC."""
        with full_precision(x_BDHW):
            scores_BKCP = self.scores(x_BDHW)
            logits_BC = (scores_BKCP.mean(-1) + self.lam * self._attention(scores_BKCP)).sum(1)
            return logits_BC if self.class_bias is None else logits_BC + at_least_float32(self.class_bias)

    def scores(self, x_BDHW: Tensor) -> Tensor:
        """Score of every class at every position by every head, scores_BKCP."""
        K, C, D = self.weight.shape
        weight_KCD = at_least_float32(self.weight)
        x_BDP = at_least_float32(x_BDHW).flatten(2)
        scores_BKCP = (weight_KCD.view(K * C, D) @ x_BDP).view(x_BDP.shape[0], K, C, -1)
        if self.bias is not None:
            scores_BKCP = scores_BKCP + at_least_float32(self.bias)[..., None]
        if self.normalize:
            # The output is divided, without an epsilon, as in the original: the stored weights stay raw.
            scores_BKCP = scores_BKCP / weight_KCD.norm(dim=-1)[..., None]
        return scores_BKCP

    def attention_maps(self, x_BDHW: Tensor) -> Tensor:
        """The mean over heads of the shares by which the attention score weighs the positions (equation 2); a head
        of infinite temperature has all of its share at its highest score."""
        with full_precision(x_BDHW):
            scores_BKCP = self.scores(x_BDHW)
            shares = []
            for k, T in enumerate(self.temperatures):
                scores_BCP = scores_BKCP[:, k]
                if math.isinf(T):
                    shares.append(torch.zeros_like(scores_BCP).scatter(-1, scores_BCP.argmax(-1, keepdim=True), 1.0))
                else:
                    shares.append((T * scores_BCP).softmax(-1))
            return torch.stack(shares).mean(0).reshape(*scores_BKCP.shape[:1], -1, *x_BDHW.shape[2:])

    def _attention(self, scores_BKCP: Tensor) -> Tensor:
        hard_K = [math.isinf(T) for T in self.temperatures]  # all heads are computed at once
        if all(hard_K):
            return scores_BKCP.amax(-1)
        sharpness_K11 = self.sharpness_K11.to(scores_BKCP.dtype)
        soft_BKC = (scores_BKCP * (scores_BKCP * sharpness_K11).softmax(-1)).sum(-1)
        return torch.where(self.take_max_K1, scores_BKCP.amax(-1), soft_BKC) if any(hard_K) else soft_BKC


def _temperatures(heads: int, given: list[float] | None) -> tuple[float, ...]:
    if given is None:
        if heads not in TEMPERATURES:
            raise UserError(
                f"model.head.heads: found {heads}, expected one of {', '.join(map(str, TEMPERATURES))} "
                "(or list the temperatures in model.head.temperatures)"
            )
        return TEMPERATURES[heads]
    if len(given) != heads:
        raise UserError(
            f"model.head.temperatures: found {counted(len(given), 'value')}, expected {heads} (model.head.heads)"
        )
    for value in given:
        if not value > 0:
            raise UserError(f"model.head.temperatures: found {value}, expected values above 0")
    return tuple(math.inf if value == MAXIMUM_BY_NUMBER else float(value) for value in given)
