"""Losses against literal formulas, torchvision and each other."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from masksup.config.components import LOSSES
from masksup.errors import UserError
from masksup.losses.asl import AsymmetricLoss
from masksup.losses.bce import BinaryCrossEntropy
from masksup.losses.focal import FocalLoss

C = 5
PRESENT, ABSENT = torch.tensor([1, 2, 3, 40, 0]), torch.tensor([50, 4, 3, 10, 60])


def data(n: int = 6) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    logits = 4 * torch.randn(n, C, generator=draw, dtype=torch.float64)
    return logits, torch.randint(-1, 2, (n, C), dtype=torch.int8, generator=draw)


def literal_asl(logits: Tensor, targets: Tensor, gamma_neg: float, gamma_pos: float, clip: float) -> list[float]:
    """Equations 4 to 6 of the paper, one counted pair after the other."""
    losses = []
    for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist()):
        p = 1 / (1 + math.exp(-logit))
        if target == 1:
            losses.append(-((1 - p) ** gamma_pos) * math.log(p))
        elif target == 0:
            shifted = max(p - clip, 0.0)
            losses.append(-(shifted**gamma_neg) * math.log(1 - shifted))
    return losses


@pytest.mark.parametrize("settings", [(4.0, 0.0, 0.05), (4.0, 1.0, 0.05), (2.0, 0.5, 0.2), (3.0, 1.0, 0.0)])
@pytest.mark.parametrize("focal_gradient", [False, True])
def test_asl_is_the_published_formula(settings: tuple[float, float, float], focal_gradient: bool) -> None:
    gamma_neg, gamma_pos, clip = settings
    logits, targets = data()
    expected = literal_asl(logits, targets, *settings)
    options = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip, "focal_gradient": focal_gradient}
    total = AsymmetricLoss(PRESENT, ABSENT, reduction="sum", **options)(logits, targets)  # type: ignore[arg-type]
    assert float(total) == pytest.approx(sum(expected), rel=1e-9)
    mean = AsymmetricLoss(PRESENT, ABSENT, **options)(logits, targets)  # type: ignore[arg-type]
    assert float(mean) == pytest.approx(sum(expected) / len(expected), rel=1e-9)


def test_asl_gradient_treats_the_focus_as_constant_unless_told() -> None:
    def gradient(focal_gradient: bool) -> Tensor:
        logits = torch.tensor([[1.0, -0.5]], dtype=torch.float64, requires_grad=True)
        loss = AsymmetricLoss(PRESENT[:2], ABSENT[:2], gamma_pos=1.0, focal_gradient=focal_gradient, reduction="sum")
        loss(logits, torch.tensor([[1, 0]], dtype=torch.int8)).backward()
        assert logits.grad is not None
        return logits.grad[0]

    p, q = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(0.5))
    shifted = q - 0.05
    constant = [-(1 - p) * (1 - p), shifted**4 / (1 - shifted) * q * (1 - q)]
    assert gradient(False).tolist() == pytest.approx(constant, rel=1e-9)
    through = [
        constant[0] + p * (1 - p) * math.log(p),
        constant[1] - 4 * shifted**3 * math.log(1 - shifted) * q * (1 - q),
    ]
    assert gradient(True).tolist() == pytest.approx(through, rel=1e-9)


def test_asl_easy_absences_cost_nothing_and_push_nothing() -> None:
    logits = torch.tensor([[-3.5, -8.0]], requires_grad=True)  # probabilities below the clip of 0.05
    loss = AsymmetricLoss(PRESENT[:2], ABSENT[:2])(logits, torch.zeros(1, 2, dtype=torch.int8))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("alpha", [0.25, 0.6])
@pytest.mark.parametrize("gamma", [0.0, 2.0, 3.5])
def test_focal_equals_torchvision(alpha: float, gamma: float) -> None:
    logits, targets = data()
    logits.requires_grad_()
    counted = targets >= 0
    theirs = sigmoid_focal_loss(logits, (targets == 1).double(), alpha=alpha, gamma=gamma)[counted]
    for reduction, expected in (("mean", theirs.mean()), ("sum", theirs.sum())):
        loss = FocalLoss(PRESENT, ABSENT, alpha=alpha, gamma=gamma, reduction=reduction)(logits, targets)  # type: ignore[arg-type]
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
        ours, reference = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected))
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("extra", [{}, {"class_weights": "balanced", "max_weight": 7.0}, {"smoothing": 0.2}], ids=str)
def test_without_focus_all_are_binary_cross_entropy(extra: dict[str, object]) -> None:
    logits, targets = data()
    expected = BinaryCrossEntropy(PRESENT, ABSENT, **extra)(logits, targets)  # type: ignore[arg-type]
    asl = AsymmetricLoss(PRESENT, ABSENT, gamma_neg=0.0, gamma_pos=0.0, clip=0.0, **extra)  # type: ignore[arg-type]
    focal = FocalLoss(PRESENT, ABSENT, gamma=0.0, alpha=None, **extra)  # type: ignore[arg-type]
    for loss in (asl, focal):
        torch.testing.assert_close(loss(logits, targets), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", LOSSES.entries)
def test_every_loss_is_a_finite_fp32_scalar_that_leaves_ignored_pairs_alone(name: str) -> None:
    loss = LOSSES.resolve(name)(PRESENT, ABSENT)
    logits, targets = data()
    extreme = logits.float().mul(50).requires_grad_()  # probabilities of 0 and 1 in fp32
    value = loss(extreme, targets)
    value.backward()
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert torch.isfinite(value)
    assert extreme.grad is not None
    assert torch.isfinite(extreme.grad).all()
    assert not extreme.grad[targets == -1].any()
    other = torch.where(targets == -1, logits + 3, logits)
    assert loss(other.float(), targets) == loss(logits.float(), targets)
    assert loss(logits, torch.full_like(targets, -1)) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(logits.bfloat16(), targets).dtype == torch.float32
    LOSSES.options(name)()


@pytest.mark.parametrize("options", [{}, {"gamma_neg": 0.5, "gamma_pos": 0.5, "clip": 0.05, "focal_gradient": True}])
def test_asl_gradient_is_finite_where_a_factor_is_zero(options: dict[str, object]) -> None:
    logits = torch.tensor([[-200.0, 200.0, 0.0, -2.9444, 30.0]], requires_grad=True)
    for target in (0, 1):
        logits.grad = None
        AsymmetricLoss(PRESENT, ABSENT, **options)(logits, torch.full((1, 5), target, dtype=torch.int8)).backward()  # type: ignore[arg-type]
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("asl", {"gamma_neg": -1.0}, "loss.gamma_neg"),
        ("asl", {"gamma_pos": math.nan}, "loss.gamma_pos"),
        ("asl", {"clip": 1.0}, "loss.clip"),
        ("asl", {"smoothing": -0.1}, "loss.smoothing"),
        ("focal", {"gamma": -2.0}, "loss.gamma"),
        ("focal", {"alpha": 1.5}, "loss.alpha"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: found "):
        LOSSES.resolve(name)(PRESENT, ABSENT, **options)
