"""The CSI head beside a literal copy of its description: a batch norm and a convolution for each class."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.models.heads.csi import CSI, moments
from masksup.models.heads.maps import cam

D, C = 12, 4


class Literal(nn.Module):
    """methods.md 5.2, class by class, with the names of the released files."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(width, classes, 1, bias=False)
        self.BN = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(classes))
        self.stage6 = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for _ in range(classes))

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.classifier(a)
        positive = F.relu(maps)
        largest = F.adaptive_max_pool2d(positive, 1)
        shown = F.relu(positive - 1e-5) / (largest + 1e-5)
        logits = []
        for v, (norm, convolution) in enumerate(zip(self.BN, self.stage6)):
            logits.append(convolution(norm(a * shown[:, v : v + 1])).mean((1, 2, 3)))
        return torch.stack(logits, 1), maps


def pair(seed: int = 0, classes: int = C, width: int = D) -> tuple[CSI, Literal]:
    """A head and its literal copy with the same random parameters and statistics."""
    torch.manual_seed(seed)
    literal, head = Literal(width, classes), CSI(width, classes)
    with torch.no_grad():
        for v, norm in enumerate(literal.BN):
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            part = slice(v * width, (v + 1) * width)
            for name in ("running_mean", "running_var"):
                head.norm.get_buffer(name)[part] = norm.get_buffer(name)
            head.norm.weight[part], head.norm.bias[part] = norm.weight, norm.bias
            head.score[v] = literal.stage6[v].weight[0, :, 0, 0]
        head.classifier.weight.copy_(literal.classifier.weight[:, :, 0, 0])
    return head, literal


def features(batch: int = 3, side: tuple[int, int] = (5, 4), offset: float = 0.0, width: int = D) -> Tensor:
    torch.manual_seed(9)
    return (torch.randn(batch, width, *side) + offset).requires_grad_()


def statistics(literal: Literal, name: str) -> Tensor:
    return torch.cat([norm.get_buffer(name) for norm in literal.BN])


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize(("batch", "side", "classes"), [(3, (5, 4), C), (4, (1, 1), 1), (2, (7, 7), 9)])
def test_it_is_a_batch_norm_and_a_convolution_a_class(
    offset: float, batch: int, side: tuple[int, int], classes: int
) -> None:
    head, literal = pair(classes=classes)
    x = features(batch, side, offset)
    y = x.detach().clone().requires_grad_()
    for _ in range(2):  # the running statistics move twice
        ours, our_maps = head.train().with_maps(x)
        theirs, their_maps = literal.train()(y)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(our_maps, their_maps, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(ours)
    ((ours * weight).sum() + our_maps.square().mean()).backward()
    ((theirs * weight).sum() + their_maps.square().mean()).backward()
    assert x.grad is not None
    assert y.grad is not None
    # Batch norm divides small gradients by small deviations: compare on the scale of the largest.
    near = {"rtol": 1e-3, "atol": 1e-4 * float(y.grad.abs().max())}
    torch.testing.assert_close(x.grad, y.grad, **near)
    expected = {
        "classifier.weight": literal.classifier.weight.grad[:, :, 0, 0],
        "norm.weight": torch.cat([norm.weight.grad for norm in literal.BN]),
        "norm.bias": torch.cat([norm.bias.grad for norm in literal.BN]),
        "score": torch.stack([convolution.weight.grad[0, :, 0, 0] for convolution in literal.stage6]),
    }
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-4 * scale + 1e-6, msg=name)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(head.norm.get_buffer(name), statistics(literal, name), atol=1e-5, rtol=1e-5)
    assert head.norm.num_batches_tracked == literal.BN[0].num_batches_tracked == 2
    ours, theirs = head.eval()(x), literal.eval()(y)[0]
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_gradients_are_exact() -> None:
    head = pair(width=3, classes=2)[0].double().train()
    x = features(3, (2, 2), 0.5, width=3).detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: head.with_maps(x), (x,))


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e3])
def test_variance_is_accurate_where_means_are_large(offset: float) -> None:
    """E[x^2] - E[x]^2 of such features in float32 would be off by a multiple of the variance, or negative."""
    torch.manual_seed(0)
    x = torch.randn(8, D, 49) + offset
    shown = 1 - 1e-4 * torch.rand(8, C, 49)
    product = x.double()[:, None] * shown.double()[:, :, None]
    expected = product.var((0, 3), correction=0)
    mean, variance, above = moments(x, shown)
    torch.testing.assert_close(variance.double(), expected, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(mean.double(), product.mean((0, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(above.double(), product.mean(3) - product.mean((0, 3)), rtol=1e-2, atol=1e-4)
    constant = torch.full((2, D, 9), 7.0)
    assert (moments(constant, torch.full((2, C, 9), 0.3))[1] >= 0).all()


def test_a_class_that_is_seen_nowhere_stays_finite() -> None:
    head = CSI(D, C).train()
    with torch.no_grad():
        head.classifier.weight.fill_(-1)
    x = torch.rand(2, D, 3, 3, requires_grad=True)
    logits, maps = head.with_maps(x)
    assert (maps < 0).all()
    assert not cam(maps).any()
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_it_computes_in_float32_under_autocast() -> None:
    head = pair()[0].train()
    twin, x = copy.deepcopy(head), features().detach()
    with torch.autocast("cpu", torch.bfloat16):
        low = head(x.bfloat16())
    assert low.dtype == torch.float32
    assert torch.equal(low, twin(x.bfloat16().float()))


def test_no_tensor_of_classes_times_features_times_positions_is_kept() -> None:
    classes, width, side, batch = 40, 256, 14, 8
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    head = CSI(width, classes).train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        head(torch.randn(batch, width, side, side, requires_grad=True)).sum().backward()
    assert max(sizes) <= batch * max(width * side * side, classes * side * side, classes * width)
    assert sum(sizes) < 0.25 * batch * classes * width * side * side
