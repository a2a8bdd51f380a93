"""OASS as a whole: beside a literal copy of its description, in gradients, its teacher, in a run, and when misused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oass_literal as literal
import pytest
import torch
from compare import assert_same_run, final_state
from networks import build_network
from tiled import BCE, C, new_batch, new_network
from torch import Tensor, nn
from torch.nn import functional as F
from watch import no_questions

from masksup.base.place import Place
from masksup.config.load import load_config
from masksup.config.schema import Config
from masksup.engine.parallel.engine import make_engine
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.methods.oass import OASS
from masksup.methods.tiles import ramp
from masksup.models.network import Network
from masksup.training.train import train

MakeConfig = Callable[..., Config]
S = 128
STRATEGIES = ["max", "cmax", "ctopk", "ctopk_w"]
PUBLISHED = {"strategy": "max", "compat": "none", "points": 2, "top": 5, "distance": 3, "radius": 32.0}


def new_oass(head: str = "linear", backbone: str = "test_resnet", size: int = S, **options: Any) -> OASS:
    method = OASS(new_network(backbone, size, head), BCE, **{"distance": 3 / S, **options}).train()
    method.set_up(0)
    return method


def batch_of(size: int = S) -> dict[str, Tensor]:
    return new_batch(size, progress=0.02)


def literal_losses(
    network: Network, looks: Network, batch: dict[str, Tensor], options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, int]:
    """methods.md 5.4: the three losses and the number of crops; `looks` looks at the tiles."""
    original = options["compat"] == "original"
    mode, size = "nearest" if original else "bilinear", batch["image"].shape[-1]
    normal = (batch["image"].float() / 255 - network.mean) / network.std
    logits, maps = network.head.with_maps(network.backbone(normal))
    grid = maps.shape[-1]
    chosen = list(literal.crops(maps.detach(), logits.detach(), batch["target"], size, options))
    pieces = [literal.tiles_of(normal[i], point, size // 2, mode) for i, point, _ in chosen]
    if original:
        seen = [looks.head.maps(looks.backbone(torch.stack(four))) for four in pieces]
    else:
        everything = looks.head.maps(looks.backbone(torch.stack([tile for four in pieces for tile in four])))
        seen = list(everything.split(4))
    patch, apart = [], []
    for (i, point, labels), four in zip(chosen, seen):
        merged = literal.put_together(list(four), point, size, grid, mode, original)
        terms = [
            F.binary_cross_entropy_with_logits(merged[v].mean(), torch.tensor(float(y)))
            for v, y in enumerate(labels)
            if y >= 0
        ]
        patch.append((sum(terms), len(terms)))
        present = [(maps[i, v] - merged[v]).abs().sum() for v, y in enumerate(labels) if y == 1]
        apart.append(sum(present, torch.zeros(())) / (C * grid * grid))
    counted = batch["target"] >= 0
    whole = F.binary_cross_entropy_with_logits(logits[counted], (batch["target"] == 1).float()[counted])
    # Without ignored labels the mean over all pairs is the mean over crops of the mean over classes.
    total = sum(term for term, _ in patch) / max(1, sum(n for _, n in patch))
    return whole, torch.as_tensor(total), torch.stack(apart).mean(), len(chosen)


@pytest.mark.parametrize(
    ("strategy", "compat", "head", "patches"),
    [
        # Short: every pair of values.
        pytest.param(strategy, compat, *looks, marks=pytest.mark.slow if (i + j + k) % 2 else [])
        for i, strategy in enumerate(STRATEGIES)
        for j, compat in enumerate(("none", "original"))
        for k, looks in enumerate((("linear", "auto"), ("csi", "student"), ("csi", "teacher")))
    ],
)
def test_it_is_the_literal_description(strategy: str, compat: str, head: str, patches: str) -> None:
    # As much room as there are crops: what fills spare room takes part in the batch statistics.
    batch = batch_of()
    crops = int((batch["target"] == 1).sum())
    assert crops == 6
    method = new_oass(head, strategy=strategy, compat=compat, patches=patches, top=3, points=2)
    with_teacher = method.teacher is not None
    assert with_teacher == ((patches == "auto" and strategy != "max") or patches == "teacher")
    twin, teacher = copy.deepcopy(method.network), copy.deepcopy(method.teacher)
    options = {**PUBLISHED, "strategy": strategy, "compat": compat, "top": 3}
    *expected, count = literal_losses(twin, teacher or twin, batch, options)
    assert count == (3 if strategy == "max" else crops)
    loss, logs = method(batch)
    for name, value in zip(("loss_class", "loss_patch", "loss_reconstruction"), expected):
        torch.testing.assert_close(logs[name], value.detach(), rtol=1e-5, atol=1e-6, msg=name)
    total = expected[0] + 0.5 * expected[1] + 3 * 0.4 * expected[2]
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=1e-6)
    loss.backward()
    total.backward()
    assert expected[1].requires_grad == (not with_teacher), "with a teacher the patch loss trains nothing"
    assert expected[2].detach() > 1e-3
    for (name, ours), theirs in zip(method.network.named_parameters(), twin.parameters()):
        # As a whole: the L1 of the reconstruction has kinks, where the last bit decides a few elements.
        assert (ours.grad - theirs.grad).norm() <= 1e-3 * theirs.grad.norm() + 1e-6, name
    for (name, buffer), other in zip(method.network.named_buffers(), twin.buffers()):
        torch.testing.assert_close(buffer, other, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("patches", ["student", "teacher"])
def test_patch_loss_trains_the_student_only_where_it_looks_at_the_tiles(strategy: str, patches: str) -> None:
    batch = batch_of()
    gradients = []
    for weight in (0.0, 5.0):
        method = new_oass(strategy=strategy, patches=patches, patch_weight=weight)
        method(batch)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in method.network.parameters() if p.grad is not None]))
    if patches == "teacher":
        assert torch.equal(*gradients)
    else:
        assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_teacher_is_the_published_moving_average_of_the_parameters() -> None:
    method = new_oass(strategy="cmax", decay=0.8)
    assert method.teacher is not None
    expected = [p.detach().clone() for p in method.teacher.parameters()]
    for step in range(8):
        with torch.no_grad():
            for parameter in method.network.parameters():
                parameter.add_(torch.randn_like(parameter))
        method.update(step)
        a = min(1 - 1 / (step + 1), 0.8)
        expected = [a * old + (1 - a) * new.detach() for old, new in zip(expected, method.network.parameters())]
        for ours, theirs in zip(method.teacher.parameters(), expected):
            torch.testing.assert_close(ours, theirs)
        if step == 0:
            assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), method.network.parameters()))
    assert set(method.own_state()) == {f"teacher.{name}" for name, _ in method.network.named_parameters()}
    assert not list(method.teacher.buffers(recurse=True))[2:], "mean and std of the pixels, and no statistics"


def test_teacher_begins_as_the_student_or_with_another_classifier_as_published() -> None:
    clean, original = (new_oass(strategy="cmax", compat=compat) for compat in ("none", "original"))
    for method in (clean, original):
        assert method.teacher is not None
        own = dict(method.network.named_parameters())
        equal = {name for name, p in method.teacher.named_parameters() if torch.equal(p, own[name])}
        differ = set() if method is clean else {"head.fc.weight", "head.fc.bias"}
        assert own.keys() - equal == differ
        assert not any(p.requires_grad for p in method.teacher.parameters())
    again = new_oass(strategy="cmax", compat="original")
    assert again.teacher is not None
    assert original.teacher is not None
    assert torch.equal(again.teacher.head.fc.weight, original.teacher.head.fc.weight), "a function of the seed"


def test_the_teacher_leaves_the_statistics_of_the_student_alone() -> None:
    batch, states = batch_of(), []
    for patches in ("teacher", "student"):
        method = new_oass(strategy="cmax", patches=patches)
        plain = copy.deepcopy(method.network)
        method(batch)
        plain(batch["image"])
        moved = method.network.state_dict()
        states.append(all(torch.equal(moved[name], value) for name, value in plain.state_dict().items()))
    assert states == [True, False]


@pytest.mark.parametrize("patches", ["student", "teacher"])
def test_room_that_is_left_over_is_not_counted(patches: str) -> None:
    """With a layer-norm network, which treats samples alone, spare room changes nothing."""
    results = []
    for points in (2, 4):
        torch.manual_seed(0)
        network = build_network("test_convnext", S, "linear", {}, C)
        method = OASS(network, BCE, strategy="cmax", patches=patches, points=points).train()
        method.set_up(0)
        loss, logs = method(batch_of())
        loss.backward()
        results.append([loss.detach(), *logs.values(), *(p.grad for p in network.parameters())])
    for two, four in zip(*results):
        torch.testing.assert_close(two, four, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_images_without_a_present_class(strategy: str) -> None:
    batch = batch_of()
    method = new_oass(strategy=strategy)
    for targets in (torch.zeros(3, C), torch.full((3, C), -1)):
        loss, logs = method({**batch, "target": targets.to(torch.int8)})
        assert torch.isfinite(loss)
        assert logs["loss_reconstruction"] == 0
        assert (logs["loss_patch"] == 0) == (strategy != "max" or targets[0, 0] == -1)


def test_alpha_rises_and_stays() -> None:
    values = [float(ramp(3.0, 0.05, torch.tensor(t))) for t in (0.0, 0.01, 0.05, 0.6)]
    assert values == pytest.approx([0, 0.6, 3, 3])
    assert float(ramp(3.0, 0.0, torch.tensor(0.0))) == 3


@pytest.mark.parametrize("compat", ["none", "original"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_does_not_ask_the_device(strategy: str, compat: str) -> None:
    method, batch = new_oass("csi", strategy=strategy, compat=compat), batch_of()
    with no_questions():
        loss, _ = method(batch)
        loss.backward()
        method.update(0)


@pytest.mark.parametrize(("head", "dtype"), [("linear", torch.float32), ("csi", torch.bfloat16)])
def test_a_step_of_the_trainer_lowers_the_loss(head: str, dtype: torch.dtype, tiny_config: MakeConfig) -> None:
    method, batch, device = new_oass(head, strategy="cmax"), batch_of(), torch.device("cpu")
    stepper = Stepper(make_engine(tiny_config(), method, device, dtype, Place()), device, 0)
    losses = [float(stepper.step([batch], step, 0.0)["loss_class"]) for step in range(15)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("backbone", "size", "tile"), [("test_vit", 160, 160), ("test_efficientnet", 96, None), ("test_convnext", 64, 33)]
)
def test_any_trunk_fits(backbone: str, size: int, tile: int | None) -> None:
    method = new_oass(backbone=backbone, size=size, tile=tile, patches="student")
    loss, _ = method(batch_of(size))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in method.network.parameters())


@pytest.mark.parametrize("head", [pytest.param("linear", marks=pytest.mark.slow), "csi"])
def test_stopped_and_resumed_is_bit_equal_with_its_teacher(
    head: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        method={"name": "oass", "strategy": "ctopk"}, model__head={"name": head}, model__size=64, epochs=1
    )
    assert train(config, tmp_path / "clean") == 0
    calls = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM" if next(calls) >= 1 else None)
        assert train(config, tmp_path / "cut") == STOPPED
    assert train(config, tmp_path / "cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "clean")
    state = final_state(tmp_path / "cut")
    names = [name for name in state if name.startswith("method/teacher.")]
    assert len(names) > 10
    assert any(not torch.equal(state[name], state[name.replace("method/teacher.", "model/")]) for name in names)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"method__tile": 65}, r"method\.tile: found 65, expected 32 .* to 64 \(model\.size\)"),
        ({"method__tile": 1}, r"method\.tile: found 1, expected 32 \(the backbone's stride\) to 64"),
        ({"model__size": 32}, r"model\.size: found 32, expected at least 64: .* 1 x 1 positions"),
        ({"method__points": 0}, r"method\.points: found 0, expected at least 1"),
        ({"method__top": 0}, r"method\.top: found 0"),
        ({"method__alpha": -1.0}, r"method\.alpha: found -1\.0"),
        ({"method__alpha_ramp": 2.0}, r"method\.alpha_ramp: found 2\.0, expected a share, 0 to 1"),
        ({"method__distance": 0.5}, r"method\.distance: found 0\.5"),
        ({"method__decay": 1.0}, r"method\.decay: found 1\.0"),
        (
            {"model__head": {"name": "csra"}},
            r"model\.head\.name: found a CSRA head, expected linear or csi: method oass",
        ),
        (
            {"model__head": {"name": "linear", "pool": "max"}},
            r"model\.head\.pool: found max, expected avg: method oass",
        ),
        (
            {"model__backbone": "test_vit", "model__size": 96},
            r"method\.tile: test_vit, built for 96 pixels, cannot take tiles of 48 .*; expected 96",
        ),
    ],
    ids=str,
)
def test_a_mistake_names_its_key_before_the_run_folder_is_made(
    overrides: dict[str, Any], expected: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        train(tiny_config(**{"method": {"name": "oass"}, "model__size": 64, **overrides}), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_of_another_kind_fits() -> None:
    method = new_oass(strategy="cmax")
    method.loss = nn.Module()
    method.loss.forward = lambda logits, targets: (logits * (targets >= 0)).square().mean()  # type: ignore[method-assign]
    loss, _ = method(batch_of())
    assert torch.isfinite(loss)


def test_the_example_is_valid(request: pytest.FixtureRequest) -> None:
    config, _ = load_config(request.config.rootpath / "configs" / "examples" / "shapes_oass.yaml")
    assert (config.method.name, config.model.head.name) == ("oass", "csi")
