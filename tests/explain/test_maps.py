"""Class maps of everything registered, against the formulas of the heads and on objects whose place is known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from masksup.config.components import HEADS, METHODS
from masksup.config.schema import Config
from masksup.decisions.decisions import default_decisions
from masksup.engine.build import new_method, new_network
from masksup.explain.class_maps import class_maps
from masksup.explain.heat import colours, overlay
from masksup.explain.looks import Looks, look, of_image, view_masks
from masksup.explain.picture import ScoredImage, chosen_classes, draw_looks
from masksup.models.network import Network
from masksup.saved.label import Region
from masksup.saved.open import Trained

MakeConfig = Callable[..., Config]
B, D, C, H, W = 3, 16, 5, 4, 6
NAMES = tuple(f"class {c}" for c in range(C))


def trained(config: Config) -> Trained:
    """A network with random weights, as if it had been trained."""
    network = new_network(config, C)
    method = new_method(config, network, C, None).eval()
    return Trained(config, NAMES, network, method, "x/step-1", "0" * 64, 1, 1.0, "live", None, "")


def image(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


PARTS = [("head", name) for name in HEADS.entries] + [("method", name) for name in METHODS.entries]


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(("part", "name"), PARTS, ids=[f"{p}-{n}" for p, n in PARTS])
def test_everything_registered_shows_a_map_of_each_class(
    part: str, name: str, backbone: str, tiny_config: MakeConfig
) -> None:
    config = tiny_config(
        model={"backbone": backbone, "size": 64}, **{part if part == "method" else "model__head": {"name": name}}
    )
    model = trained(config)
    seen = look(
        model,
        default_decisions(NAMES, 0.5),
        image(64),
        [True] + [False] * (C - 1),
        of_image(view_masks(model, ["a", "b"]), 1),
    )
    grid = model.network.backbone.grid
    assert seen.maps_CHW.shape == (C, grid, grid)
    assert np.isfinite(seen.maps_CHW).all()
    assert seen.maps_CHW.min() >= 0
    assert seen.maps_CHW.max() <= 1
    assert (len(seen.views) == 2) == (name == "masksup")
    assert bool(seen.points) == (name == "oass")
    for view in seen.views:
        assert view.scores_C.shape == (C,)
        assert (view.image_3SS != image(64)).any(), "a part of it is hidden"
    scored = ScoredImage(NAMES, [0.9, 0.1, 0.2, 0.3, 0.4], [0.5] * C)
    picture = draw_looks(Image.new("RGB", (64, 48)), scored, seen, chosen_classes(scored))
    assert picture.width > 3 * 240


class Doubled(torch.nn.Module):
    """A head without maps of its own, which is twice a linear one."""

    def __init__(self, linear: torch.nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x_BDHW: torch.Tensor) -> torch.Tensor:
        return 2 * self.linear(x_BDHW)


def test_maps_are_the_formulas_of_their_heads() -> None:
    torch.manual_seed(0)
    x_BDHW = torch.randn(B, D, H, W)
    linear = HEADS.resolve("linear")(D, C).eval()
    maps = class_maps(linear, x_BDHW)
    assert maps.kind == "activation"
    torch.testing.assert_close(maps.values_BCHW.mean((2, 3)), linear(x_BDHW), atol=1e-5, rtol=1e-5)
    gradient = class_maps(Doubled(linear).eval(), x_BDHW)
    assert gradient.kind == "gradient"
    without_bias = maps.values_BCHW - linear.fc.bias[:, None, None]
    torch.testing.assert_close(gradient.values_BCHW, 2 * without_bias.detach() / (H * W), atol=1e-5, rtol=1e-5)

    csra = HEADS.resolve("csra")(D, C, heads=1, lam=0.3).eval()
    attention = class_maps(csra, x_BDHW)
    scores_BCP = csra.scores(x_BDHW)[:, 0]
    weighed_BC = (attention.values_BCHW.flatten(2) * scores_BCP).sum(-1)
    torch.testing.assert_close(scores_BCP.mean(-1) + 0.3 * weighed_BC, csra(x_BDHW), atol=1e-5, rtol=1e-5)
    hard = HEADS.resolve("csra")(D, C, heads=1, temperatures=[99]).eval()
    assert class_maps(hard, x_BDHW).concentration().tolist() == [[H * W] * C] * B


@pytest.mark.parametrize("name", ["csra", "attentive_probe", "ml_decoder", "query2label"])
def test_attention_has_a_sum_of_one_and_goes_where_the_head_listens(name: str) -> None:
    """Positions without attention may change without a change of the logits, and only they may."""
    torch.manual_seed(0)
    options = {"ml_decoder": {"groups": 2}, "query2label": {"encoder_layers": 0, "decoder_layers": 1}}.get(name, {})
    head = HEADS.resolve(name)(D, C, **options).eval()
    shares_BCHW = class_maps(head, torch.randn(B, D, H, W)).values_BCHW
    torch.testing.assert_close(shares_BCHW.sum((2, 3)), torch.ones(B, C), atol=1e-5, rtol=1e-5)
    assert shares_BCHW.min() >= 0
    if name == "ml_decoder":  # classes 0-2 share a query, 3 and 4 the other
        assert torch.equal(shares_BCHW[:, 0], shares_BCHW[:, 2])
        assert not torch.equal(shares_BCHW[:, 2], shares_BCHW[:, 3])
    # Features whose embedding is the same everywhere are looked at evenly, whatever the query.
    flat = class_maps(head, torch.randn(1, D, 1, 1).expand(1, D, H, W))
    if name != "query2label":  # whose keys also say where they are
        torch.testing.assert_close(flat.values_BCHW, torch.full((1, C, H, W), 1 / (H * W)))
        assert flat.shown().max() < 1e-3 or flat.concentration().max() < 1.001


@pytest.mark.parametrize("head", ["linear", "csra"])
def test_a_map_points_at_the_object(head: str, tiny_config: MakeConfig) -> None:
    """Hand-made weights: feature d answers to colour d, and class d to feature d."""
    config = tiny_config(model={"backbone": "test_resnet", "size": 64}, model__head={"name": head})
    model = trained(config)
    network: Network = model.network

    class Colours(torch.nn.Module):
        def forward(self, x_BDHW: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(x_BDHW, 16)

    network.backbone = Colours()  # type: ignore[assignment]
    network.mean.zero_()
    network.std.fill_(1.0)
    network.head = HEADS.resolve(head)(3, 3).eval()
    weight = network.head.fc.weight if head == "linear" else network.head.weight[0]
    weight.data.copy_(torch.eye(3))
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    picture[0, 0:16, 48:64] = 255  # red, top right
    picture[2, 32:48, 16:32] = 255  # blue, third row, second column
    maps_CHW = look(model, default_decisions(NAMES, 0.5), picture, [False] * C).maps_CHW
    assert np.unravel_index(maps_CHW[0].argmax(), (4, 4)) == (0, 3)
    assert np.unravel_index(maps_CHW[2].argmax(), (4, 4)) == (2, 1)
    heat = np.asarray(overlay(Image.new("RGB", (64, 64)), maps_CHW[0])).astype(int).sum(-1)
    row, column = np.unravel_index(heat.argmax(), (64, 64))
    assert 0 <= row < 16
    assert 48 <= column < 64


def test_the_scale_rises_in_lightness() -> None:
    light = colours(np.linspace(0, 1, 50)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) > 0).all()


def test_chosen_are_the_predicted_or_those_asked_for() -> None:
    scored = ScoredImage(NAMES, [0.1, 0.9, 0.2, 0.7, 0.3], [0.5, 0.5, 0.1, 0.5, 0.5])
    assert chosen_classes(scored) == [1, 3, 2]
    assert chosen_classes(scored, [4, 0]) == [4, 0]
    assert len(chosen_classes(ScoredImage(["x"] * 20, [0.9] * 20, [0.5] * 20))) == 8


def test_region_and_key_point_are_drawn_on_the_map_of_their_class() -> None:
    scored = ScoredImage(NAMES, [0.9, 0.8, 0.1, 0.1, 0.1], [0.5] * C)
    seen = Looks("activation", np.zeros((C, 4, 4), np.float32), None)
    plain = np.asarray(draw_looks(Image.new("RGB", (64, 64)), scored, seen, [0, 1]))
    boxed = draw_looks(
        Image.new("RGB", (64, 64)), scored, seen, [0, 1], [Region((0.2, 0.2, 0.8, 0.8), "class 1", 0.7, 0.8)]
    )
    changed = np.flatnonzero((np.asarray(boxed)[: len(plain) - 40] != plain[:-40]).any((0, 2)))
    assert changed.min() >= 14 + 240, "not on the map of class 0"
