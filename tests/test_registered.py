"""Everything registered, by name: a new head, loss or method is tested here without new test code."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same_run
from networks import build_network
from watch import no_questions

from masksup.base.place import Place
from masksup.config.components import HEADS, LOSSES, METHODS
from masksup.config.registry import Registry
from masksup.config.schema import Config
from masksup.engine.parallel.engine import make_engine
from masksup.engine.step import Stepper
from masksup.exits import STOPPED
from masksup.runtime.metrics_rows import read_rows
from masksup.training.train import train

MakeConfig = Callable[..., Config]
B, D, C = 6, 16, 5

PARTS = [(registry, name) for registry in (HEADS, LOSSES, METHODS) for name in registry.entries]
SHORT = ("linear", "bce", "masksup")  # tests/test_recipes.py and tests/test_start_matrix.py resume the others
every_part = pytest.mark.parametrize(("registry", "name"), PARTS, ids=[f"{r.kind}-{n}" for r, n in PARTS])


def targets(seed: int = 0) -> torch.Tensor:
    """int8 BC with all three kinds of label in it."""
    drawn_BC = torch.randint(-1, 2, (B, C), generator=torch.Generator().manual_seed(seed))
    drawn_BC[0, :3] = torch.tensor([1, 0, -1])
    return drawn_BC.to(torch.int8)


def batch() -> dict[str, torch.Tensor]:
    images = torch.randint(0, 256, (B, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(B)
    return {
        "image": images, "target": targets(), "sample": numbers, "position": numbers, "progress": torch.tensor(0.5),
    }  # fmt: skip


def build_loss(name: str) -> Any:
    return LOSSES.resolve(name)(torch.arange(C) * 3, 40 - torch.arange(C) * 3)


def test_options_are_read_without_torch_and_all_have_defaults() -> None:
    probe = (
        "import sys\nfrom masksup.config.components import LOSSES\nfrom masksup.config.components import METHODS\n"
        "from masksup.config.components import HEADS\nfrom masksup.config.components import DATASETS\n"
        "for r in (LOSSES, METHODS, HEADS, DATASETS):\n    for n in r.entries: r.options(n)()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@every_part
def test_the_docstring_names_every_option(registry: Registry, name: str) -> None:
    part = registry.resolve(name)
    # A part that inherits its constructor inherits the description of its options.
    text = " ".join(inspect.getdoc(kind) or "" for kind in part.__mro__ if kind.__module__.startswith("masksup"))
    missing = [option for option in registry.options(name).model_fields if not re.search(rf"\b{option}\b", text)]
    assert not missing, f"{registry.target(name)}: not in the docstring: {', '.join(missing)}"


@pytest.mark.parametrize("name", HEADS.entries)
@pytest.mark.parametrize("side", [1, 7])
def test_head_is_finite_forward_and_backward(name: str, side: int) -> None:
    torch.manual_seed(0)
    head = HEADS.resolve(name)(D, C)
    x_BDHW = (5 * torch.randn(B, D, side, side)).requires_grad_()
    logits_BC = head(x_BDHW)
    assert logits_BC.shape == (B, C)
    assert logits_BC.dtype == torch.float32
    logits_BC.square().mean().backward()
    for tensor in (logits_BC, x_BDHW.grad, *(parameter.grad for parameter in head.parameters())):
        assert tensor is not None
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("name", HEADS.entries)
def test_head_in_evaluation_treats_each_image_alone(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS.resolve(name)(D, C).eval()
    x_BDHW = torch.randn(B, D, 4, 4)
    alone_BC = torch.cat([head(x_BDHW[b : b + 1]) for b in range(B)])
    torch.testing.assert_close(head(x_BDHW), alone_BC, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES.entries)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_loss_is_a_finite_scalar_that_ignored_pairs_do_not_touch(name: str, scale: float) -> None:
    loss, targets_BC = build_loss(name), targets()
    logits_BC = (scale * torch.randn(B, C, generator=torch.Generator().manual_seed(1))).requires_grad_()
    value = loss(logits_BC, targets_BC)
    value.backward()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert logits_BC.grad is not None
    assert torch.isfinite(logits_BC.grad).all()
    assert not logits_BC.grad[targets_BC == -1].any()
    other_BC = torch.where(targets_BC == -1, -logits_BC.detach(), logits_BC.detach())
    assert torch.equal(loss(other_BC, targets_BC), value.detach())


@pytest.mark.parametrize("name", LOSSES.entries)
def test_loss_falls_as_the_logits_get_right_and_takes_a_batch_without_labels(name: str) -> None:
    loss, targets_BC = build_loss(name), targets()
    sign_BC = torch.where(targets_BC == 1, 1.0, -1.0)
    right, unsure, wrong = (float(loss(k * sign_BC, targets_BC)) for k in (4.0, 0.0, -4.0))
    assert right < unsure < wrong
    assert float(loss(torch.randn(B, C), torch.full((B, C), -1, dtype=torch.int8))) == 0.0


@pytest.mark.parametrize("name", LOSSES.entries)
def test_loss_is_computed_in_float32(name: str) -> None:
    loss, targets_BC = build_loss(name), targets()
    logits_BC = torch.randn(B, C, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert torch.equal(loss(logits_BC, targets_BC), loss(logits_BC.float(), targets_BC))


@pytest.mark.parametrize("name", METHODS.entries)
def test_method_gives_a_loss_with_gradients_and_predicts(name: str) -> None:
    torch.manual_seed(0)
    method = METHODS.resolve(name)(build_network("test_resnet", 64, "linear", {}, C), build_loss("bce")).train()
    method.set_up(0)
    loss, logs = method(batch())
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert "loss" not in logs, "the loop logs the loss itself"
    assert all(value.shape == () and not value.requires_grad for value in logs.values())
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    images = batch()["image"]
    logits_BC = method.eval().predict(images)
    assert logits_BC.shape == (B, C)
    assert logits_BC.dtype == torch.float32
    assert torch.equal(logits_BC, method.predict(images))


@every_part
def test_a_training_step_does_not_ask_the_device(registry: Registry, name: str, tiny_config: MakeConfig) -> None:
    torch.manual_seed(0)
    chosen = {"head": "linear", "loss": "bce", "method": "baseline", registry.kind: name}
    network = build_network("test_resnet", 64, chosen["head"], {}, C)
    method = METHODS.resolve(chosen["method"])(network, build_loss(chosen["loss"])).train()
    method.set_up(0)
    cpu = torch.device("cpu")
    engine = make_engine(tiny_config(optim__clip=1.0), method, cpu, torch.float32, Place())
    stepper = Stepper(engine, cpu, 0)
    with no_questions():
        logs = stepper.step([batch(), batch()], 0, 0.5)
    assert torch.isfinite(logs["loss"]).all()


@pytest.mark.parametrize(
    "question",
    [torch.Tensor.item, torch.Tensor.nonzero, lambda x: x[x > 0], bool, torch.Tensor.cpu, torch.Tensor.tolist, float],
)
def test_the_watch_sees_a_question(question: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(AssertionError, match="asks the device"), no_questions():
        question(torch.ones(1))


# Short: a head is smaller in tests/test_start_matrix.py.
@pytest.mark.parametrize(
    ("registry", "name"),
    [
        pytest.param(registry, name, id=f"{registry.kind}-{name}",
                     marks=[] if name in SHORT else pytest.mark.slow)
        for registry, name in PARTS
    ],
)  # fmt: skip
def test_a_run_with_it_is_finite_and_resumes_bit_equal(
    registry: Registry, name: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {registry.key.replace(".", "__").removesuffix("__name"): {"name": name}}
    size = {"model__size": 64} if registry is METHODS else {}  # a map that can be cut, for those that cut it
    config = tiny_config(**part, **size, epochs=1.5)
    assert train(config, tmp_path / "clean") == 0
    rows = [row for row in read_rows(tmp_path / "clean" / "metrics.jsonl") if row["kind"] == "train"]
    assert rows
    assert all(row["loss"] is not None and row["skipped_steps"] == 0 for row in rows), rows
    calls = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM" if next(calls) >= 2 else None)
        assert train(config, tmp_path / "cut") == STOPPED
    assert train(config, tmp_path / "cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "clean")
