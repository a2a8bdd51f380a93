"""Normalisation, backbone and head together."""

import pytest
import torch
from networks import build_network
from torch import Tensor
from torchvision.transforms.v2 import functional

from masksup.config.components import HEADS
from masksup.models.network import Network


def network(**options: object) -> Network:
    torch.manual_seed(0)
    arguments: dict[str, object] = {"head_name": "linear", "head_options": {}, "classes": 5} | options
    return build_network("test_vit", 96, **arguments).eval()  # type: ignore[arg-type]


def pictures() -> Tensor:
    return torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_normalisation_is_torchvisions_with_the_card_by_default() -> None:
    net = build_network("resnet18", 96, "linear", {}, 5)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = functional.normalize(pictures().float() / 255, mean, std)
    torch.testing.assert_close(net.normalize(pictures()), expected)
    torch.testing.assert_close(net.normalize(pictures().float() / 255), expected)


def test_normalisation_can_be_given_per_channel() -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    expected = functional.normalize(pictures().float() / 255, mean, std)
    torch.testing.assert_close(network(mean=mean, std=std).normalize(pictures()), expected)


def test_forward_is_head_of_backbone_of_normalised_images() -> None:
    net = network(head_name="csra", head_options={"heads": 2})
    x = net.backbone(net.normalize(pictures()))
    assert torch.equal(net.features(pictures()), x)
    assert torch.equal(net(pictures()), net.head(x))


def test_state_holds_backbone_and_head_and_nothing_else() -> None:
    net = network()
    parts = {key.split(".")[0] for key in net.state_dict()}
    assert parts == {"backbone", "head"}
    inside = {id(p) for part in (net.backbone, net.head) for p in part.parameters()}
    assert inside == {id(p) for p in net.parameters()}


def test_same_seed_same_network() -> None:
    first, second = network().state_dict(), network().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", HEADS.entries)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_every_head_on_every_kind_of_map(name: str, backbone: str) -> None:
    net = build_network(backbone, 96, name, {}, 5)
    logits = net(pictures())
    assert logits.shape == (2, 5)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", HEADS.entries)
def test_exports_without_python(name: str) -> None:
    options = {"heads": 6} if name == "csra" else {}
    net = network(head_name=name, head_options=options)
    program = torch.export.export(net, (pictures(),))
    torch.testing.assert_close(program.module()(pictures()), net(pictures()))


def test_bfloat16_network_takes_uint8_and_gives_float32() -> None:
    assert network().bfloat16()(pictures()).dtype == torch.float32
