"""The attentive probe: against torch's attention, by symmetry, by counting."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from masksup.errors import UserError
from masksup.models.heads.attentive_probe import AttentiveProbe

B, D, H, W, C, M = 2, 12, 3, 5, 7, 4


def probe(**options: int) -> AttentiveProbe:
    torch.manual_seed(0)
    head = AttentiveProbe(D, C, **{"queries": M, **options}).double()
    with torch.no_grad():
        head.query.mul_(50)  # as they begin, queries look everywhere alike
    return head.eval()


def features(batch: int = B) -> Tensor:
    return torch.randn(batch, D, H, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("embedding", [None, 8, 40])
def test_it_is_attention_whose_keys_are_the_features_and_whose_values_are_split_over_the_queries(
    embedding: int | None,
) -> None:
    head = AttentiveProbe(D, C, queries=M, embedding=embedding).double()
    x_BPD = features().flatten(2).transpose(1, 2)
    value_BPME = (x_BPD @ head.value.flatten(0, 1).T).unflatten(-1, (M, -1))
    # A head of torch's attention for each query: it looks alone, at all features, and takes its own values.
    seen_BM1E = F.scaled_dot_product_attention(
        head.query[:, None].expand(B, M, 1, D), x_BPD[:, None].expand(B, M, -1, D), value_BPME.transpose(1, 2)
    )
    seen_BE = seen_BM1E.flatten(1)
    assert seen_BE.shape[1] == (embedding or D)
    torch.testing.assert_close(head(features()), head.fc(F.layer_norm(seen_BE, seen_BE.shape[1:])))


def test_positions_are_a_set() -> None:
    head, x = probe(), features()
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(x.flatten(2)[..., order].view_as(x)), head(x))
    assert not torch.allclose(head(x.roll(1, 0)), head(x))


def test_gradients_are_right_and_reach_every_parameter() -> None:
    head, x = probe(), features(1)[:, :, :2, :2].contiguous().requires_grad_()
    assert torch.autograd.gradcheck(head, (x,))
    head(x).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-12, name


def test_parameters_are_as_many_as_the_formula_says() -> None:
    for width, classes, queries in ((768, 80, 32), (1024, 20, 16), (1280, 80, 32)):
        count = sum(p.numel() for p in AttentiveProbe(width, classes, queries=queries).parameters())
        assert count == queries * width + width**2 + width * classes + classes
        assert width > 768 or count == 675_920 < 1_500_000


def test_the_map_of_a_class_is_of_the_queries_that_speak_for_it() -> None:
    head, x = probe(), features()
    share_BMP, seen_BME = head._look(x)
    E = seen_BME.shape[2]
    weight_CME = torch.zeros(C, M, E, dtype=torch.float64)
    weight_CME[0, 1] = seen_BME[0, 1]  # class 0 reads query 1 of the first image, and is for what it sees there
    weight_CME[1, 2] = seen_BME[0, 2]
    weight_CME[1, 1] = -seen_BME[0, 1]  # and class 1 is against it
    head.fc.weight.data.copy_(weight_CME.flatten(1))
    maps_CP = head.attention_maps(x)[0].flatten(1)
    torch.testing.assert_close(maps_CP[0], share_BMP[0, 1])
    torch.testing.assert_close(maps_CP[1], share_BMP[0, 2])
    torch.testing.assert_close(maps_CP[2], share_BMP[0].mean(0), msg="nothing speaks for class 2")


@pytest.mark.parametrize(("options", "key"), [({"queries": 0}, "queries"), ({"embedding": 6}, "embedding")])
def test_wrong_options_are_named(options: dict[str, int], key: str) -> None:
    with pytest.raises(UserError, match=f"^model.head.{key}: found "):
        probe(**options)
