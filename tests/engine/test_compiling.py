"""What torch.compile makes graphs of, and that it is done with the first step."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from masksup.base.place import ALONE
from masksup.config.components import HEADS, METHODS
from masksup.config.schema import Config, Precision
from masksup.engine import compiling
from masksup.engine.build import new_method, new_network
from masksup.engine.compiling import compile_networks, compiles_repeatably
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import set_numerics
from masksup.engine.step import Stepper
from masksup.training.open import build

MakeConfig = Callable[..., Config]
CPU, C = torch.device("cpu"), 5
METHODS_TRIED: list[Any] = [
    # Short: one network; two.
    *(pytest.param({"name": name}, marks=[] if name in ("baseline", "oass") else pytest.mark.slow)
      for name in METHODS.entries),
    pytest.param({"name": "masksup", "base": {"name": "mcar"}}, marks=pytest.mark.slow),
    pytest.param({"name": "oass", "strategy": "ctopk"}, marks=pytest.mark.slow),
]  # fmt: skip


def counting(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Counts the graphs that are made from now on, by a backend that keeps torch's own kernels."""
    torch._dynamo.reset()
    counter, real = CompileCounterWithBackend("eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: real(*a, **{**k, "backend": counter}))
    return counter


class Compiled:
    """A method as `open_training` compiles it."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counter = counting(monkeypatch)
        network = new_network(config, C)
        self.method = new_method(config, network, C, None)
        self.method.set_up(0)
        compile_networks(self.method, config.precision)
        self.stepper = Stepper(make_engine(config, self.method, CPU, torch.float32, ALONE), CPU, 0)

    @property
    def graphs(self) -> int:
        return self.counter.frame_count

    def step(self, step: int) -> None:
        self.stepper.step([batch()], step, 0.5)

    @torch.inference_mode()
    def evaluate(self) -> None:
        self.method.eval().predict(batch(3)["image"])


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    images = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8)
    numbers = torch.arange(count)
    target = torch.ones(count, C, dtype=torch.int8)
    return {"image": images, "target": target, "sample": numbers, "position": numbers}


@pytest.mark.parametrize("method", METHODS_TRIED, ids=lambda method: "-".join(str(v) for v in method.values()))
def test_a_method_has_graphs_and_all_of_them_after_one_step(
    method: dict[str, Any], tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = Compiled(tiny_config(method=method, model__size=64, precision__compile=True), monkeypatch)
    compiled.step(0)
    first = compiled.graphs
    assert first > 0
    compiled.step(1)
    compiled.step(2)
    assert compiled.graphs == first, counters["recompile_limit"]
    compiled.evaluate()
    scoring = compiled.graphs
    assert scoring > first
    compiled.evaluate()
    compiled.method.train()
    compiled.step(3)
    assert compiled.graphs == scoring


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("csra", "query2label") else pytest.mark.slow) for name in HEADS.entries],
)
def test_a_head_is_one_graph(name: str, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"embedding": 64, "heads": 4, "feedforward": 64} if name in ("ml_decoder", "query2label") else {}
    config = tiny_config(model__head={"name": name, **options}, model__size=64, precision__compile=True)
    compiled = Compiled(config, monkeypatch)
    compiled.step(0)
    assert compiled.graphs == 2  # backbone and head
    compiled.step(1)
    assert compiled.graphs == 2


def test_the_copy_that_is_scored_is_compiled_like_the_one_that_is_trained(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[str] = []

    def compiled(call: Callable[..., Any], **_: object) -> Callable[..., Any]:
        return lambda *args: (entered.append(type(call.__self__).__name__), call(*args))[1]  # type: ignore[attr-defined, func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled)
    built, _ = build(tiny_config(precision={"threads": 1, "compile": True}), tmp_path, False, ALONE)
    assert built.scored_method is not built.method
    for method in (built.method.eval(), built.scored_method):
        entered.clear()
        method.predict(batch(2)["image"])
        assert entered == ["Backbone", "Linear"]


class OnGpu(nn.Module):
    """Says so, without a network in it."""

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        yield SimpleNamespace(device=torch.device("cuda"))


@pytest.mark.parametrize(("deterministic", "repeatable"), [(True, False), (True, True), (False, False)])
def test_kernels_that_an_older_torch_chooses_by_their_speed_are_told_on_a_gpu(
    deterministic: bool, repeatable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deterministic mode leaves that of Inductor off."""
    told: list[str] = []
    monkeypatch.setattr(compiling.log, "warning", told.append)
    with torch._inductor.config.patch(deterministic=repeatable):
        compile_networks(OnGpu(), Precision(compile=True, deterministic=deterministic))
    assert len(told) == (deterministic and not repeatable)
    assert all(f"torch {torch.__version__} chooses kernels by their speed" in line for line in told)


@pytest.mark.skipif(torch.__version__ < (2, 15), reason="torch's determinism leaves compiled kernels out before 2.15")
def test_determinism_holds_for_compiled_kernels() -> None:
    set_numerics(Precision(threads=1, deterministic=False))
    assert not compiles_repeatably()
    set_numerics(Precision(threads=1))
    assert compiles_repeatably()
