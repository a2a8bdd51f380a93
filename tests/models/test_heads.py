"""Heads against literal implementations of their formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from masksup.config.components import HEADS
from masksup.errors import UserError
from masksup.models.heads.csra import CSRA, TEMPERATURES
from masksup.models.heads.linear import Linear

B, D, C, H, W = 3, 7, 4, 3, 5


def literal_csra(x: Tensor, weight: Tensor, temperatures: tuple[float, ...], lam: float) -> Tensor:
    """Equations of section 3 of the paper, one image, head, class and position at a time."""
    logits = torch.zeros(len(x), weight.shape[1], dtype=x.dtype)
    for b in range(len(x)):
        for c in range(weight.shape[1]):
            for k, temperature in enumerate(temperatures):
                m = weight[k, c]
                norm = math.sqrt(sum(float(value) ** 2 for value in m))
                scores = [
                    sum(float(m[d] * x[b, d, i, j]) for d in range(len(m))) / norm
                    for i in range(x.shape[2])
                    for j in range(x.shape[3])
                ]
                base = sum(scores) / len(scores)
                if temperature in (99, math.inf):
                    attention = max(scores)
                else:
                    total = sum(math.exp(temperature * s) for s in scores)
                    attention = sum(s * math.exp(temperature * s) / total for s in scores)
                logits[b, c] += base + lam * attention
    return logits


def features(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(B, D, H, W, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("heads", TEMPERATURES)
def test_csra_is_the_published_formula(heads: int) -> None:
    head = CSRA(D, C, heads=heads, lam=0.4).double()
    published = {1: (1,), 2: (1, 99), 4: (1, 2, 4, 99), 6: (1, 2, 3, 4, 5, 99), 8: (1, 2, 3, 4, 5, 6, 7, 99)}
    x = features(torch.float64)
    expected = literal_csra(x, head.weight.detach(), published[heads], 0.4)
    torch.testing.assert_close(head(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(head.float()(x.float()), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperatures", [[99.0], [math.inf, math.inf], [math.inf, 0.5, 3.0]])
def test_csra_with_temperatures_of_ones_own(temperatures: list[float]) -> None:
    head = CSRA(D, C, heads=len(temperatures), lam=1.3, temperatures=temperatures).double()
    x = features(torch.float64)
    expected = literal_csra(x, head.weight.detach(), tuple(temperatures), 1.3)
    torch.testing.assert_close(head(x), expected, rtol=1e-10, atol=1e-10)


def test_csra_maximum_of_raw_scores_is_the_residual_of_a_trained_linear_classifier() -> None:
    head = CSRA(D, C, heads=1, lam=0.2, temperatures=[math.inf], normalize=False)
    x = features()
    scores = torch.einsum("bdhw,cd->bchw", x, head.weight[0])
    torch.testing.assert_close(head(x), scores.mean((2, 3)) + 0.2 * scores.amax((2, 3)))


@pytest.mark.parametrize("heads", TEMPERATURES)
def test_csra_gradient_includes_norm_and_attention(heads: int) -> None:
    head = CSRA(D, C, heads=heads, lam=0.4).double()
    x = features(torch.float64)[:1].requires_grad_()
    weight = head.weight.detach().requires_grad_()

    def logits(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(logits, (x, weight))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(sorted(TEMPERATURES)), st.floats(0.1, 10))
def test_csra_properties(seed: int, heads: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = CSRA(D, C, heads=heads, lam=0.3).double()
    x = torch.randn(2, D, H, W, generator=generator, dtype=torch.float64)
    logits = head(x)
    order = torch.randperm(H * W, generator=generator)
    torch.testing.assert_close(head(x.flatten(2)[..., order].view_as(x)), logits)  # positions are a set
    classes = torch.randperm(C, generator=generator)
    with torch.no_grad():
        head.weight.copy_(head.weight[:, classes])
        torch.testing.assert_close(head(x), logits[:, classes])
        head.weight.mul_(factor)  # the norm is divided out
    torch.testing.assert_close(head(x), logits[:, classes])


def test_csra_heads_are_not_interchangeable() -> None:
    head = CSRA(D, C, heads=4, lam=0.5)
    x = 3 * features()
    before = head(x)
    with torch.no_grad():
        head.weight.copy_(head.weight[[1, 0, 2, 3]])
    assert (head(x) - before).abs().max() > 1e-3


def test_csra_starts_like_the_convolutions_it_stands_for() -> None:
    bound = 1 / math.sqrt(512)  # kaiming_uniform(a=sqrt 5) with fan-in 512
    weight = CSRA(512, 80, heads=6).weight
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize("name", HEADS.entries)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_head_computes_its_logits_in_float32_under_autocast(name: str, dtype: torch.dtype) -> None:
    head = HEADS.resolve(name)(D, C).eval()
    x, last = features(), getattr(head, "classify", head)  # of a transformer the last layer, else the whole head
    given: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.autocast("cpu", dtype=dtype):
        logits = head(x)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, last(given[0].float()))
    assert head(x.to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("name", HEADS.entries)
def test_every_head_gives_logits_at_any_map_size_and_gradients_everywhere(name: str) -> None:
    head = HEADS.resolve(name)(D, C)
    assert head(torch.randn(2, D, 1, 1)).shape == (2, C)
    x = features().requires_grad_()
    head(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    assert x.grad is not None
    HEADS.options(name)()  # its options are readable without importing it, with a default for each


def test_linear_equals_pooling_then_linear() -> None:
    x = features()
    mean, peak = x.mean((2, 3)), x.amax((2, 3))
    for pool, pooled in {"avg": mean, "max": peak, "gwp": (mean + peak) / 2}.items():
        head = Linear(D, C, pool=pool)  # type: ignore[arg-type]
        torch.testing.assert_close(head(x), head.fc(pooled))
    assert Linear(D, C, bias=False).fc.bias is None


def test_linear_dropout_only_in_training() -> None:
    head = Linear(D, C, dropout=0.5)
    x = features()
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head.fc(x.mean((2, 3))))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"heads": 3}, "model.head.heads"),
        ({"heads": 0}, "model.head.heads"),
        ({"heads": 2, "temperatures": [1.0]}, "model.head.temperatures"),
        ({"heads": 1, "temperatures": [-1.0]}, "model.head.temperatures"),
        ({"heads": 1, "temperatures": [math.nan]}, "model.head.temperatures"),
    ],
)
def test_csra_refuses(options: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: found "):
        CSRA(D, C, **options)  # type: ignore[arg-type]


def test_linear_refuses() -> None:
    with pytest.raises(UserError, match=r"^model\.head\.dropout: found 1"):
        Linear(D, C, dropout=1.0)
