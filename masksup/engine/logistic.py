"""Logistic regression of every class at once, solved to its optimum in float64: the linear head of a frozen backbone.

Minimised is the sum over rows of BCE, plus `l2` / 2 times the squared weights of each class; the bias is not penalised.
`l2` is what scikit-learn calls 1 / C. Shapes: R rows, D features, K directions in which the rows differ, C classes,
P = K + 1 parameters of a class: its weight along each direction, then its bias at the mean of the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-6
"""Largest element of the gradient at a solution, in coordinates in which the curvature is about 1. There half its
square is what is missing to the optimum, in nats."""
_STEPS, _ROUNDS = 60, 50  # of L-BFGS in a round, and rounds at most
_FLAT = 1e-12  # curvature below which a bias is as good as infinite


@dataclass(frozen=True)
class Costs:
    """What a pair of row and class costs: `present` log(1 + e^-logit) + `absent` log(1 + e^logit); both float64 RC."""

    present_RC: Tensor
    absent_RC: Tensor

    def at(self, logits_RC: Tensor) -> Tensor:
        """The sum over all pairs."""
        both_RC = self.present_RC + self.absent_RC
        return -(both_RC * F.logsigmoid(-logits_RC)).sum() - (self.present_RC * logits_RC).sum()

    def slope(self, logits_RC: Tensor) -> Tensor:
        """The derivative of `at`, RC."""
        return (self.present_RC + self.absent_RC) * logits_RC.sigmoid() - self.present_RC

    def curvature(self, logits_RC: Tensor) -> Tensor:
        """The second derivative of `at`, RC."""
        p_RC = logits_RC.sigmoid()
        return (self.present_RC + self.absent_RC) * p_RC * (1 - p_RC)

    def scaled(self, weight_R: Tensor) -> "Costs":
        return Costs(self.present_RC * weight_R[:, None], self.absent_RC * weight_R[:, None])


class Space:
    """Features along the principal axes of all rows, from their mean. There the curvature is nearly diagonal.

    An optimum lies among the combinations of the rows, so that fewer rows than D have as many directions only.
    """

    def __init__(self, x_RD: Tensor) -> None:
        self._center_D = x_RD.mean(0)
        z_RK = x_RD - self._center_D
        span_DK: Tensor | None = torch.linalg.qr(z_RK.T).Q if len(z_RK) < z_RK.shape[1] else None
        if span_DK is not None:
            z_RK = z_RK @ span_DK
        squares_K, axes_KK = torch.linalg.eigh(z_RK.T @ z_RK)
        self._basis_DK: Tensor = axes_KK if span_DK is None else span_DK @ axes_KK
        self.z_RK: Tensor = z_RK @ axes_KK
        self.variance_K = squares_K.clamp(min=0) / len(x_RD)

    def logits(self, theta_CP: Tensor, rows: slice = slice(None)) -> Tensor:
        return self.z_RK[rows] @ theta_CP[:, :-1].T + theta_CP[:, -1]

    def classifier(self, theta_CP: Tensor) -> tuple[Tensor, Tensor]:
        """weight_CD and bias_C for features as they were given."""
        weight_CD = theta_CP[:, :-1] @ self._basis_DK.T
        return weight_CD, theta_CP[:, -1] - weight_CD @ self._center_D


@dataclass(frozen=True)
class Optimum:
    theta_CP: Tensor
    gradient: float
    """Its largest element, as of TOLERANCE."""


def solve(
    space: Space, costs: Costs, l2: float, *, near: Tensor | None = None, tolerance: float = TOLERANCE,
    each: Callable[[], None] = lambda: None,
) -> Optimum:  # fmt: skip
    """The optimum under a penalty above 0, by rounds of L-BFGS, each in coordinates that suit where it begins.

    The first begins with weights 0 and each class at its smoothed log-odds (n + 1) / (N - n + 1). No more follow once
    the gradient is within the tolerance, or a round gained nothing that float64 can tell.
    near: the parameters of a similar problem, from which it is not far.
    each: called before every evaluation; may raise.
    """
    present_C, absent_C = costs.present_RC.sum(0), costs.absent_RC.sum(0)
    # Without a row of either kind the best bias is infinite. Such a class stays at its prior.
    free_C = (present_C > 0) & (absent_C > 0)
    prior_CP = present_C.new_zeros(len(present_C), len(space.variance_K) + 1)
    prior_CP[:, -1] = ((present_C + 1) / (absent_C + 1)).log()
    theta_CP = prior_CP if near is None else torch.where(free_C[:, None], near, prior_CP)
    before = float("inf")
    for _ in range(_ROUNDS):
        search = _Search(space, costs, l2, theta_CP, free_C, each)
        value = float(search.objective())
        gradient = search.gradient()
        if gradient <= tolerance or value >= before:
            break
        before, theta_CP = value, search.after_steps(tolerance)
    return Optimum(theta_CP, gradient)


class _Search:
    """L-BFGS from `begin_CP`, in steps along which the curvature there is 1."""

    def __init__(
        self, space: Space, costs: Costs, l2: float, begin_CP: Tensor, free_C: Tensor, each: Callable[[], None]
    ) -> None:
        self._space, self._costs, self._l2, self._begin_CP, self._each = space, costs, l2, begin_CP, each
        curved_CR = costs.curvature(space.logits(begin_CP)).T
        diagonal_CP = torch.cat([curved_CR @ space.z_RK.square() + l2, curved_CR.sum(1, keepdim=True)], 1)
        self._scale_CP = torch.where(free_C[:, None], diagonal_CP.clamp(min=_FLAT).rsqrt(), 0.0)
        self._steps_CP = torch.zeros_like(begin_CP, requires_grad=True)

    def after_steps(self, tolerance: float) -> Tensor:
        """The parameters after so many steps as a round has, or as the tolerance needs."""
        solver = torch.optim.LBFGS(
            [self._steps_CP], max_iter=_STEPS, tolerance_grad=tolerance, tolerance_change=0, history_size=_STEPS,
            line_search_fn="strong_wolfe",
        )  # fmt: skip
        solver.step(self.objective)  # type: ignore[no-untyped-call]
        return self._theta()

    @torch.no_grad()
    def objective(self) -> Tensor:
        """The loss and the penalty; their gradient is left at the steps."""
        self._each()
        theta_CP = self._theta()
        logits_RC, weights_CK = self._space.logits(theta_CP), theta_CP[:, :-1]
        slope_RC = self._costs.slope(logits_RC)
        gradient_CP = torch.cat([slope_RC.T @ self._space.z_RK + self._l2 * weights_CK, slope_RC.sum(0)[:, None]], 1)
        self._steps_CP.grad = self._scale_CP * gradient_CP
        return self._costs.at(logits_RC) + self._l2 / 2 * weights_CK.square().sum()

    def gradient(self) -> float:
        """Its largest element, where the objective was asked for last."""
        assert self._steps_CP.grad is not None
        return float(self._steps_CP.grad.abs().max())

    def _theta(self) -> Tensor:
        return self._begin_CP + self._scale_CP * self._steps_CP.detach()
