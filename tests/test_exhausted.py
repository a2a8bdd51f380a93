"""Memory and disks that are used up, as the libraries say it: one line, status 2, not started again."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import launch.start.rank
import masksup.cli
from launch.cluster.resources import Resources
from launch.ledger import Folder
from launch.start.decide import why_not_again
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.data.shapes import draw_shapes, prepare_shapes
from masksup.data.write_index import IndexContent, write_index
from masksup.data.write_shards import pack_index
from masksup.exits import USER_ERROR, told
from masksup.runtime.run_folder import open_run
from masksup.training.train import train

MakeConfig = Callable[..., Config]
TOO_MUCH: dict[str, Callable[[], object]] = {
    "torch": lambda: torch.empty(1 << 50),
    "numpy": lambda: np.empty(1 << 50),
    "python": lambda: bytearray(1 << 60),
    "CUDA": lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total")),
    "CUDA's start": lambda: _raise(RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")),
    "cuBLAS": lambda: _raise(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    ),
}


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("library", sorted(TOO_MUCH))
def test_memory(library: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masksup.commands.predict.run", lambda _: TOO_MUCH[library]())
    assert masksup.cli.main(["predict", "run", "image.jpg"]) == USER_ERROR
    line = capsys.readouterr().err
    assert line.startswith("masksup: out of memory")
    assert line.count("\n") == 1
    assert all(name in line for name in ("batch.micro", "model.grad_checkpointing", "eval.batch"))


def test_the_launcher_does_not_start_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKSUP_START", "1")
    monkeypatch.setattr(launch.start.rank, "_train", lambda *_: TOO_MUCH["torch"]())
    assert launch.start.rank.main(tmp_path) == USER_ERROR
    left = json.loads((Folder(tmp_path).exits(1) / "rank00000.json").read_text())
    assert left["status"] == USER_ERROR
    assert left["error"].startswith("out of memory (in main memory, tried to allocate")
    assert why_not_again("wrong", [], Resources()) == "wrong"


def test_other_errors_are_about_something_else() -> None:
    assert told(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert told(KeyboardInterrupt("out of memory")) is None


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many KiB."""
    place = tmp_path / "small"

    def make(kib: int) -> Path:
        place.mkdir()
        if os.geteuid() or os.system(f"mount -t tmpfs -o size={kib}k tmpfs {place}"):
            pytest.skip("needs to mount a small file system")
        return place

    yield make
    os.system(f"umount --lazy {place} 2> /dev/null")  # a lock may still be open


@pytest.fixture(scope="module")
def trained(tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("full") / "run"
    assert train(tiny_config(epochs=1, data__eval=None), run) == 0
    return run


def full(work: Callable[[], object], names: str) -> None:
    with pytest.raises(OSError, match=r"pace|disk") as caught:
        work()
    line = told(caught.value)
    assert line is not None, repr(caught.value)
    assert names in str(line)


def test_features_of_a_frozen_backbone(
    tiny_config: MakeConfig, small: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was room when it was asked for, and another program has taken it since."""
    monkeypatch.setattr("masksup.engine.features.FeatureFolder.room", lambda *_: None)
    config = tiny_config(model__frozen=True, model__features=str(small(8)))
    full(lambda: train(config, tmp_path / "run"), str(tmp_path / "small"))
    assert not list((tmp_path / "small").iterdir())


def test_pictures(trained: Path, tiny_data: Path, small: Callable[[int], Path]) -> None:
    image = next((tiny_data / "root").rglob("*.jpg"))
    place = small(8)
    args = masksup.cli.parse(["predict", str(trained), str(image), "--pictures", str(place)])
    full(lambda: args.run(args), f"{image.stem}.png")
    assert not list(place.iterdir())


def test_a_prepared_index(tiny_data: Path, small: Callable[[int], Path]) -> None:
    content = prepare_shapes(tiny_data / "root", train=50, val=20, test=20, size=48, seed=3)[0]
    many = IndexContent(**{**vars(content), "image_names": [f"{n}{'x' * 90}" for n, _ in enumerate(content.ids)]})
    place = small(4)
    full(lambda: write_index(place / "index", many), str(place / "index"))
    assert not list(place.iterdir())


def test_shards(tiny_data: Path, small: Callable[[int], Path]) -> None:
    place = small(16)
    full(lambda: pack_index(open_index(tiny_data / "train"), place / "shards", 1 << 20, print), str(place / "shards"))
    assert not list(place.iterdir())


def test_shapes(small: Callable[[int], Path]) -> None:
    place = small(64)
    full(lambda: draw_shapes(place, train=50, val=20, test=20, size=96, seed=3), str(place / "VOCdevkit"))
    assert not list(place.iterdir())


def test_a_run_folder(tiny_config: MakeConfig, small: Callable[[int], Path]) -> None:
    place = small(32)
    config: Any = tiny_config()
    open_run(place, config)
    (place / "starts.jsonl").write_text("x" * 4095)  # the next line needs another page
    (place / "rest").write_bytes(bytes(shutil.disk_usage(place).free))
    full(lambda: open_run(place, config), "starts.jsonl")
