"""Fixtures shared by all tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from masksup.config.load import validate
from masksup.config.schema import Config

# A busy machine, or one with a slower instruction set, is no fault of a test.
hypothesis.settings.register_profile(
    "without a clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("without a clock")

# torch counts the devices at the first backward pass of a process. After a `torch.export` it counts one, and then no
# process that is forked can train; tests fork, whatever was tested before them.
torch.zeros((), requires_grad=True).backward()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs, label tables and weights beside the checkout; skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data (../shared/data) is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes train (50), val (20) and test (20) of synthetic shapes, 48 px, made by the real preparer."""
    from masksup.data.shapes import prepare_shapes
    from masksup.data.write_index import write_index

    folder = tmp_path_factory.mktemp("tiny")
    for content in prepare_shapes(folder / "root", train=50, val=20, test=20, size=48, seed=3):
        write_index(folder / content.split, content)
    return folder


@pytest.fixture(scope="session")
def tiny_config(tiny_data: Path) -> Callable[..., Config]:
    """A run of seconds with batch norm, dropout, flips, EMA and two micro-batches a step; `a__b=c` overrides a.b."""

    def make(**overrides: Any) -> Config:
        tree: dict[str, Any] = {
            "seed": 5,
            "epochs": 2,
            "data": {"train": str(tiny_data / "train"), "eval": str(tiny_data / "val"), "workers": 0},
            "model": {"backbone": "test_resnet", "size": 32, "head": {"name": "linear", "dropout": 0.2}},
            "optim": {"name": "adamw", "lr": 0.003},
            "schedule": {"name": "cosine", "warmup_epochs": 0.5},
            "batch": {"global": 16, "micro": 8},
            "ema": {"decay": 0.9},
            "precision": {"threads": 1},
            "log": {"every_steps": 1, "images": 0, "pr_curves": False, "plots": False},
        }
        for key, value in overrides.items():
            node = tree
            *parents, last = key.split("__")
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = value
        return validate(tree, "test")

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Bit-equality needs the same threads everywhere, and two cores share many tests."""
    torch.set_num_threads(1)
