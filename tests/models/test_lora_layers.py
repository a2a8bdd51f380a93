"""An adapted layer computes W x + scale B A x, in every kind of network, and merging it changes nothing."""

import copy
from typing import Any

import pytest
import torch
from networks import build_network
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.base.random import draws
from masksup.config.schema import Lora, Optim
from masksup.engine.optim import build_optimizer
from masksup.errors import UserError
from masksup.models.backbones import Backbone, build_backbone
from masksup.models.lora import LoraLinear, add_lora, base_state, merged
from masksup.models.network import Network

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2}
# Layers that are called, that are looked at (EVA, BEiT, Swin V2), gated ones, and a network with convolutions.
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "test_vit": (32, {}),
    "vit_base_patch16_dinov3": (32, TINY),
    "eva02_tiny_patch14_224": (28, TINY),
    "eva02_base_patch14_448": (28, TINY),
    "beit_base_patch16_224": (32, TINY),
    "swinv2_tiny_window8_256": (128, {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 2, 2)}),
    "vit_pe_core_tiny_patch16_384": (32, TINY),
    "vit_base_patch16_siglip_224": (32, TINY),
    "test_convnext": (64, {}),
    "mobilevit_xxs": (64, {}),
}


def adapted(name: str, seed: int = 0, checkpointing: bool = False, **settings: Any) -> tuple[Network, Network, Lora]:
    """The network as it was, and adapted, with a B that is not zero."""
    size, options = NETWORKS[name]
    torch.manual_seed(seed)
    plain = build_network(name, size, "linear", {}, 3, grad_checkpointing=checkpointing, backbone_options=options)
    for path, parameter in plain.backbone.named_parameters():
        if parameter.ndim == 1 and not path.endswith("bias"):  # scales: a fresh network hardly lets its blocks through
            nn.init.ones_(parameter)
    network, lora = copy.deepcopy(plain), Lora(**{"rank": 2, **settings})
    network.backbone.frozen_batch_norm = True
    add_lora(network.backbone, lora, seed)
    for layer in adapters(network).values():
        nn.init.normal_(layer.lora_b, std=0.05)
    return plain, network, lora


def adapters(network: Network) -> dict[str, LoraLinear]:
    return {path: layer for path, layer in network.backbone.model.named_modules() if isinstance(layer, LoraLinear)}


def images(network: Network) -> Tensor:
    size = network.backbone.size
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(4))


def test_a_layer_is_the_sum_and_so_are_its_gradients() -> None:
    layer = nn.Linear(6, 5).double()
    ours = LoraLinear(layer, 2, 1.5, draws(0, 0, "lora"))
    assert torch.equal(ours(torch.ones(6).double()), layer(torch.ones(6).double())), "B begins at zero"
    nn.init.normal_(ours.lora_b)
    x = torch.randn(4, 6, dtype=torch.float64)
    a, b = (value.detach().clone().requires_grad_() for value in (ours.lora_a, ours.lora_b))
    expected = F.linear(x, layer.weight + 1.5 * b @ a, layer.bias)
    for found in (ours(x), F.linear(x, ours.weight, ours.bias)):
        assert torch.allclose(found, expected, atol=1e-12)
        gradients = torch.autograd.grad(found.square().sum(), (ours.lora_a, ours.lora_b))
        wanted = torch.autograd.grad(expected.square().sum(), (a, b), retain_graph=True)
        assert all(torch.allclose(mine, theirs, atol=1e-12) for mine, theirs in zip(gradients, wanted))


@pytest.mark.parametrize("name", NETWORKS)
def test_merged_is_applied_and_every_adapter_takes_part(name: str) -> None:
    plain, network, lora = adapted(name)
    x = images(network)
    network.train()
    before = {key: value.clone() for key, value in base_state(network.backbone).items()}
    network(x).square().sum().backward()
    trained = {key for key, value in network.named_parameters() if value.grad is not None}
    assert trained == {key for key, value in network.named_parameters() if value.requires_grad}
    assert trained == network.kept_state().keys(), "adapters and head, and nothing else"
    assert all(layer.lora_b.grad.abs().max() > 0 for layer in adapters(network).values())  # type: ignore[union-attr]
    after = base_state(network.backbone)
    assert all(torch.equal(after[key], value) for key, value in before.items()), "batch norm's statistics, too"

    without = plain.eval()(x)
    plain.load_state_dict(merged(after, network.kept_state(), lora.scale))
    assert (plain(x) - network.eval()(x)).abs().max() < 1e-5
    assert (plain(x) - without).abs().max() > 1e-3


def test_recomputed_activations_give_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        _, network, _ = adapted("test_vit", checkpointing=checkpointing)
        network.train()(images(network)).square().sum().backward()
        found.append([layer.lora_a.grad for layer in adapters(network).values()])
    for plain, again in zip(*found, strict=True):
        assert plain is not None
        assert again is not None
        assert torch.equal(plain, again)


def test_a_is_a_function_of_the_seed_and_the_layer() -> None:
    states = []
    for seed, torchs in ((3, 0), (3, 1), (4, 0)):
        _, network, _ = adapted("test_vit", seed=3)
        backbone = build_backbone("test_vit", 32, grad_checkpointing=False, options={})
        torch.manual_seed(torchs)
        add_lora(backbone, Lora(rank=2), seed)
        network.backbone = backbone
        states.append([layer.lora_a for layer in adapters(network).values()])
    assert all(map(torch.equal, states[0], states[1]))
    assert not any(map(torch.equal, states[0], states[2]))
    same = [value for value in states[0] if value.shape == states[0][0].shape]
    assert len(same) > 2
    assert not any(torch.equal(same[0], other) for other in same[1:]), "no two layers draw the same"
    bound = max(value.abs().max() * value.shape[1] ** 0.5 for value in states[0])
    assert 0.9 < bound <= 1


def test_layers_are_named_by_the_end_of_their_paths() -> None:
    def chosen(*names: str) -> set[str]:
        return set(adapters(adapted("test_vit", layers=names)[1]))

    everything = set(adapters(adapted("test_vit")[1]))
    assert chosen("qkv") == {path for path in everything if path.endswith(".attn.qkv")} != set()
    assert chosen("proj", "mlp.fc1") == {path for path in everything if path.endswith((".proj", ".fc1"))}
    assert chosen("blocks.1.mlp.fc2") == {"blocks.1.mlp.fc2"}
    assert {path.rpartition(".")[2] for path in everything} == {"qkv", "proj", "fc1", "fc2"}


def backbone(name: str) -> Backbone:
    size, options = NETWORKS.get(name, (32, {}))
    return build_backbone(name, size, grad_checkpointing=False, options=options)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("test_resnet", {}, "model.lora.rank: found 2, but test_resnet has no linear layers to adapt; expected a"),
        ("test_vit", {"layers": ["qkv", "fc3"]}, r"model.lora.layers: found fc3, .*some of fc1, fc2, proj, qkv"),
        ("test_vit", {"layers": ["kv"]}, r"model.lora.layers: found kv, "),
        ("test_vit", {"rank": 65}, r"model.lora.rank: found 65, but blocks.0.attn.qkv .* expected at most 64"),
    ],
)
def test_what_cannot_be_adapted_is_one_line(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        add_lora(backbone(name), Lora(**{"rank": 2, **settings}), 0)
    assert "\n" not in str(error.value)


def test_layers_have_rates_of_their_own() -> None:
    """`optim.layer_decay` means for the additions what it means for the layers they are made to."""
    plain, network, _ = adapted("test_vit")
    optim = Optim(name="adamw", lr=1.0, layer_decay=0.5, backbone_factor=0.1, head_factor=2.0)
    factors = {}
    for made in (plain, network):
        names = {id(parameter): name for name, parameter in made.named_parameters()}
        for group in build_optimizer(optim, made).param_groups:
            factors |= {names[id(parameter)]: group["factor"] for parameter in group["params"]}
    for path in adapters(network):
        for kind in ("lora_a", "lora_b"):
            assert factors[f"backbone.model.{path}.{kind}"] == factors[f"backbone.model.{path}.weight"]
    assert len({factors[f"backbone.model.{path}.lora_a"] for path in adapters(network)}) > 1
