"""A run that was trained, and the same as it was half-way."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from masksup.config.schema import Config
from masksup.training.train import train

HALF = 4


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Config]) -> Path:
    """Seven steps, scored after the fourth and the last."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tracked") / "run"
    assert train(tiny_config(data__workers=0), folder) == 0
    return folder


@pytest.fixture
def growing(trained: Path, tmp_path: Path) -> tuple[Path, Callable[[], None]]:
    """The folder as it was at step 4, and what brings it to its end: first the record, then the result."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "starts.jsonl"):
        shutil.copy(trained / name, folder)
    lines = (trained / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= HALF))

    def grow() -> None:
        shutil.copy(trained / "metrics.jsonl", folder / "metrics.new")
        (folder / "metrics.new").replace(folder / "metrics.jsonl")
        shutil.copy(trained / "result.json", folder / "result.new")
        (folder / "result.new").replace(folder / "result.json")

    return folder, grow
