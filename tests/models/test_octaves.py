"""`model.octaves`: the backbone sees an image at several scales."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.models.backbones import Backbone, build_backbone
from masksup.saved.open import open_trained
from masksup.training.train import train


def small(name: str, size: int, octaves: int, **options: object) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, size, grad_checkpointing=False, options=options, octaves=octaves).eval()


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_the_pooled_map_is_the_mean_of_the_pooled_maps_of_the_scales(name: str) -> None:
    """Of sides that halve, so that each position of a smaller map stands for as many of the largest."""
    x, one, three = images(128), small(name, 128, 1), small(name, 128, 3)
    with torch.no_grad():
        pooled = [one(F.interpolate(x, side, mode="area")).mean((2, 3)) for side in (128, 64, 32)]
        found = three(x)
    assert found.shape == (2, three.width, three.grid, three.grid) == one(x).shape
    torch.testing.assert_close(found.mean((2, 3)), torch.stack(pooled).mean(0))


def test_what_stands_in_a_corner_is_seen_there_at_every_scale() -> None:
    """A change at the top left moves the map there, and leaves the other corners alone."""
    backbone, x = small("test_convnext", 256, 2), torch.zeros(1, 3, 256, 256)
    changed = x.clone()
    changed[..., :32, :32] = 1
    with torch.no_grad():
        moved_HW = (backbone(changed) - backbone(x)).abs().sum(1)[0]
    assert moved_HW[0, 0] > 1000 * max(moved_HW[0, -1], moved_HW[-1, 0], moved_HW[-1, -1])


@pytest.mark.parametrize(
    ("name", "size", "octaves", "line"),
    [
        ("test_resnet", 66, 3, r"model\.octaves: found 3, but model\.size 66 is no multiple of 4"),
        ("test_vit", 64, 2, r"model\.octaves: found 2, but test_vit is laid out for one size; expected 1"),
        ("test_maxvit", 160, 2, r"model\.octaves: found 2: model\.size: test_maxvit cannot take 80 pixels"),
    ],
)
def test_what_has_no_smaller_scale_is_refused(name: str, size: int, octaves: int, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        small(name, size, octaves)
    assert "\n" not in str(caught.value)


def test_a_head_is_solved_over_both_scales(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    """Features of other octaves are other features; the run that is opened again computes what it was scored with."""
    solved = {"optim__name": "lbfgs", "optim__l2": 1.0, "ema__decay": 0.0}
    frozen = {"model__frozen": True, "model__head": {"name": "linear"}, "model__features": str(tmp_path / "kept")}
    for octaves in (1, 2):
        config = tiny_config(**solved, **frozen, model__octaves=octaves)
        assert train(config, tmp_path / str(octaves)) == 0
    one, two = (open_trained(tmp_path / str(octaves)).network.eval() for octaves in (1, 2))
    assert two.backbone.octaves == 2
    assert not torch.equal(one.state_dict()["head.fc.weight"], two.state_dict()["head.fc.weight"])
    assert len(list((tmp_path / "kept").glob("*-train-plain-*.npy"))) == 2
