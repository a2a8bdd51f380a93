"""CSI, class-specific instances: every class looks at the features through its own map; the head of OASS."""

import math

import torch
from torch import Tensor, nn

from masksup.models.heads.maps import MapHead, cam
from masksup.models.heads.precision import at_least_float32, full_precision

# Shapes: B images, D feature width, H x W = P positions, C classes.


class CSI(MapHead):
    """Logit of class v: mean over positions of w_v . BN_v(A * CAM_v), with a batch norm and weights of its own for
    each class; methods.md 5.2. CAM_v comes of A through a classifier without bias, and gradients pass through it.

    Nothing of size C x D x positions is ever made. Mean, weights and batch norm's scaling are linear, so a logit needs
    the mean of A * CAM_v over the positions alone, and batch norm the mean and variance over the batch; both are
    products of two matrices.

    `classifier.weight` [C, D] is `classifier.weight` of a released file; `score` [C, D] has its `stage6.{v}.weight` as
    rows; `norm` has class v's `BN.{v}` in entries v D to (v + 1) D.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, classes, bias=False)
        # One batch norm of C x D channels is never called: it keeps the parameters (of one dimension, as optimisers
        # expect of a normalisation) and the running statistics under the names that other code looks for.
        self.norm = nn.BatchNorm1d(classes * width)
        self.score = nn.Parameter(torch.empty(classes, width))
        self.reset_classifier()
        nn.init.uniform_(self.score, -1 / math.sqrt(width), 1 / math.sqrt(width))  # the default of a convolution

    def reset_classifier(self) -> None:
        nn.init.kaiming_normal_(self.classifier.weight)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Features of any float type to float32 logits_BC."""
        return self.with_maps(x_BDHW)[0]

    def with_maps(self, x_BDHW: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(x_BDHW):
            maps_BCHW = self.maps(x_BDHW)
            x_BDP = at_least_float32(x_BDHW).flatten(2)
            return self._logits(x_BDP, cam(maps_BCHW).flatten(2)), maps_BCHW

    def maps(self, x_BDHW: Tensor) -> Tensor:
        with full_precision(x_BDHW):
            weight_CD = at_least_float32(self.classifier.weight)
            maps_BCP = weight_CD @ at_least_float32(x_BDHW).flatten(2)
            return maps_BCP.reshape(*maps_BCP.shape[:2], *x_BDHW.shape[2:])

    def _logits(self, x_BDP: Tensor, cam_BCP: Tensor) -> Tensor:
        shape = self.score.shape
        if self.training:
            mean_CD, variance_CD, above_BCD = moments(x_BDP, cam_BCP)
            self._follow(mean_CD.detach(), variance_CD.detach(), cam_BCP.shape[0] * cam_BCP.shape[2])
        else:
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            variance_CD = at_least_float32(self.norm.running_var).view(shape)
            mean_BCD = cam_BCP @ x_BDP.mT / x_BDP.shape[2]
            above_BCD = mean_BCD - at_least_float32(self.norm.running_mean).view(shape)
        weight_CD, bias_CD, score_CD = (
            at_least_float32(p) for p in (self.norm.weight.view(shape), self.norm.bias.view(shape), self.score)
        )
        scale_CD = score_CD * weight_CD * (variance_CD + self.norm.eps).rsqrt()
        return torch.einsum("bcd,cd->bc", above_BCD, scale_CD) + (score_CD * bias_CD).sum(1)

    @torch.no_grad()
    def _follow(self, mean_CD: Tensor, variance_CD: Tensor, count: int) -> None:
        """Move the running statistics as nn.BatchNorm2d does, with the unbiased variance of `count` values."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        unbiased_CD = variance_CD * (count / max(count - 1, 1))
        norm.running_mean.lerp_(mean_CD.flatten().to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_(unbiased_CD.flatten().to(norm.running_var.dtype), norm.momentum)
        norm.num_batches_tracked.add_(1)


def moments(x_BDP: Tensor, cam_BCP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of X = A * CAM over images and positions: mean_CD, variance_CD (biased), and above_BCD, how far the mean over the
    positions of each image lies above that mean.

    The variance is a difference of two moments, which cancel where a mean is large beside its deviation. So both
    factors are centred first: with A = a + s and CAM = c + t for any constants s and t, Z = X - s t = a CAM + s c.
    The constants are the means, left out of the gradients, which are exact for any constants.
    """
    positions = x_BDP.shape[2]
    count = x_BDP.shape[0] * positions
    shift_D = x_BDP.detach().mean((0, 2))
    shift_C = cam_BCP.detach().mean((0, 2))
    a_BDP, c_BCP = x_BDP - shift_D[:, None], cam_BCP - shift_C[:, None]
    z_BCD = cam_BCP @ a_BDP.mT / positions + shift_D * c_BCP.mean(2)[:, :, None]
    z_CD = z_BCD.mean(0)
    square_CD = (
        torch.einsum("bcp,bdp->cd", cam_BCP.square(), a_BDP.square()) / count
        + 2 * shift_D * torch.einsum("bcp,bdp->cd", cam_BCP * c_BCP, a_BDP) / count
        + shift_D.square() * c_BCP.square().mean((0, 2))[:, None]
    )
    variance_CD = (square_CD - z_CD.square()).clamp(min=0)  # rounding may leave a little below 0
    return shift_C[:, None] * shift_D + z_CD, variance_CD, z_BCD - z_CD
