"""Puzzle-CAM beside a literal copy of its description, in a run, and when misused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiled import BCE, C, new_batch, new_network
from torch import Tensor
from torch.nn import functional as F

from masksup.config.load import load_config
from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.methods.puzzle import Puzzle
from masksup.models.network import Network
from masksup.training.train import train

MakeConfig = Callable[..., Config]
S = 192


def new_puzzle(head: str = "linear", backbone: str = "test_resnet", size: int = S, **options: Any) -> Puzzle:
    bias = {"bias": False} if head == "linear" else {}
    method = Puzzle(new_network(backbone, size, head, **bias), BCE, **options).train()
    method.set_up(0)
    return method


def batch_of(size: int = S) -> dict[str, Tensor]:
    return new_batch(size, progress=0.2)


def literal(network: Network, batch: dict[str, Tensor], side: int, options: dict[str, Any]) -> dict[str, Tensor]:
    """methods.md 5.1: tiles cut and maps put together by loops; the terms of the loss one by one."""
    labels = batch["target"]
    normal = (batch["image"].float() / 255 - network.mean) / network.std
    logits, features = network.head.with_maps(network.backbone(normal))
    t = S // side
    places = [(r, c) for r in range(side) for c in range(side)]
    tiles = [normal[i, :, r * t : (r + 1) * t, c * t : (c + 1) * t] for r, c in places for i in range(len(normal))]
    seen = network.head.maps(network.backbone(torch.stack(tiles)))
    g = seen.shape[-1]
    merged = torch.stack([torch.zeros(C, side * g, side * g)] * len(normal))
    for number, (r, c) in enumerate(places):
        for i in range(len(normal)):
            merged[i, :, r * g : (r + 1) * g, c * g : (c + 1) * g] = seen[number * len(normal) + i]

    def soft_margin(scores: Tensor) -> Tensor:
        counted = labels >= 0
        return F.binary_cross_entropy_with_logits(scores[counted], (labels == 1).float()[counted])

    def activation(maps: Tensor) -> Tensor:
        positive = F.relu(maps)
        return F.relu(positive - 1e-5) / (F.adaptive_max_pool2d(positive, 1) + 1e-5)

    a, b = (activation(features), activation(merged)) if options["level"] == "cam" else (features, merged)
    difference = (a - b).abs() if options["norm"] == "l1" else (a - b) ** 2
    if options["reconstruction"] == "masking":
        apart = sum(difference[i, v].sum() for i in range(len(a)) for v in range(C) if labels[i, v] == 1) / a.numel()
    elif options["reconstruction"] == "selection":
        apart = sum(
            torch.stack([difference[i, v].mean() for v in range(C) if labels[i, v] == 1]).mean() for i in range(len(a))
        ) / len(a)
    else:
        apart = difference.mean()
    unsure = torch.zeros(())
    for one in seen.mean((2, 3)):
        for v in torch.sigmoid(one):
            unsure = unsure - v * torch.log(v + 1e-5) / len(seen)
    return {
        "loss_class": soft_margin(logits),
        "loss_pieces": soft_margin(merged.mean((2, 3))),
        "loss_reconstruction": torch.as_tensor(apart),
        "loss_confidence": unsure,
    }


@pytest.mark.parametrize(
    ("head", "side", "options"),
    [
        ("linear", 2, {}),
        ("linear", 3, {"norm": "l2", "reconstruction": "none"}),
        ("csi", 2, {"level": "cam"}),
        ("linear", 2, {"reconstruction": "selection", "level": "cam", "norm": "l2"}),
        ("csi", 3, {"reconstruction": "selection", "confidence": 0.3}),
    ],
    ids=str,
)
def test_it_is_the_literal_description(head: str, side: int, options: dict[str, Any]) -> None:
    method, batch = new_puzzle(head, pieces=side**2, **options), batch_of()
    twin = copy.deepcopy(method.network)
    expected = literal(twin, batch, side, {"level": "feature", "norm": "l1", "reconstruction": "masking", **options})
    loss, logs = method(batch)
    assert ("loss_confidence" in logs) == ("confidence" in options)
    for name, value in logs.items():
        torch.testing.assert_close(value, expected[name].detach(), rtol=1e-5, atol=1e-6, msg=name)
    total = expected["loss_class"] + expected["loss_pieces"] + 4 * 0.4 * expected["loss_reconstruction"]
    total = total + options.get("confidence", 0.0) * expected["loss_confidence"]
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=1e-6)
    assert expected["loss_reconstruction"].detach() > 1e-3
    loss.backward()
    total.backward()
    for (name, ours), theirs in zip(method.network.named_parameters(), twin.parameters()):
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=2e-4 * scale + 1e-6, msg=name)


def test_bce_is_the_multi_label_soft_margin_averaged_over_classes_and_images() -> None:
    logits, targets = torch.randn(4, C), torch.randint(0, 2, (4, C))
    torch.testing.assert_close(
        BCE(logits, targets.to(torch.int8)), F.multilabel_soft_margin_loss(logits, targets.float())
    )


def test_an_image_without_a_present_class_is_finite() -> None:
    for reconstruction in ("masking", "selection", "none"):
        method, batch = new_puzzle(reconstruction=reconstruction), batch_of()
        loss, logs = method({**batch, "target": torch.zeros_like(batch["target"])})
        loss.backward()
        assert torch.isfinite(loss)
        assert (logs["loss_reconstruction"] == 0) == (reconstruction != "none")


@pytest.mark.parametrize(("backbone", "size", "tile"), [("test_vit", 160, 160), ("test_convnext", 96, 64)])
def test_any_trunk_fits_with_resized_tiles(backbone: str, size: int, tile: int) -> None:
    method = new_puzzle(backbone=backbone, size=size, tile=tile)
    loss, _ = method(batch_of(size))
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.network.parameters())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"method__pieces": 5}, r"method\.pieces: found 5, expected a square number from 4"),
        ({"method__pieces": 1}, r"method\.pieces: found 1"),
        (
            {"model__size": 32},
            r"model\.size: found 32, expected at least 64: .* 2 x 2 tiles, each at least the backbone's stride of 32",
        ),
        ({"model__size": 48}, r"model\.size: found 48, expected at least 64: .* at least the backbone's stride of 32"),
        (
            {"model__size": 96},
            r"method\.pieces: found 4, but model\.size 96 is not a multiple of 2 tiles x .*32; nearest size: 128",
        ),
        ({"method__tile": 65}, r"method\.tile: found 65, expected 1 to 64"),
        ({"method__alpha": -1.0}, r"method\.alpha: found -1\.0"),
        ({"method__confidence": -1.0}, r"method\.confidence: found -1\.0"),
        ({"method__alpha_ramp": 2.0}, r"method\.alpha_ramp: found 2\.0"),
        (
            {"model__head": {"name": "query2label"}},
            r"model\.head\.name: found a Query2Label head, expected linear or csi",
        ),
        ({"model__head": {"name": "linear", "pool": "gwp"}}, r"model\.head\.pool: found gwp, expected avg"),
        ({"model__backbone": "test_vit"}, r"method\.tile: test_vit, built for 64 pixels, cannot take tiles of 32"),
    ],
    ids=str,
)
def test_a_mistake_names_its_key_before_the_run_folder_is_made(
    overrides: dict[str, Any], expected: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        train(tiny_config(**{"method": {"name": "puzzle"}, "model__size": 64, **overrides}), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_example_is_valid(request: pytest.FixtureRequest) -> None:
    config, _ = load_config(request.config.rootpath / "configs" / "examples" / "shapes_puzzle.yaml")
    assert (config.method.name, config.model.last_stage_stride) == ("puzzle", 1)
