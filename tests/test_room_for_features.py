"""What the features of a frozen backbone will take is said before they are computed, and refused if it is too much."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from masksup.config.schema import Config
from masksup.engine import feature_batches
from masksup.errors import UserError
from masksup.training.train import train

MakeConfig = Callable[..., Config]
MODEL = {"backbone": "test_vit", "size": 48, "frozen": True, "head": {"name": "attentive_probe"}}


def with_limit(config: Config, bytes_: float) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"features_limit_gb": bytes_ / 1e9})})


@pytest.mark.parametrize(("parts", "images"), [({}, 50 + 50 + 20), ({"data__eval": None, "data__folds": 5}, 50 + 50)])
def test_the_size_is_said_and_is_the_limit_to_the_byte(
    parts: dict[str, int], images: int, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images and mirror images of train, and images of eval, which folds share with train."""
    config, needed = tiny_config(model=MODEL, epochs=1, **parts), images * 9 * 64 * 4
    run = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        train(with_limit(config, needed - 1), run)
    said = f"model.features_limit_gb: the features would take {images} images and mirror images x 9 tokens x 64 = "
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert not run.exists()

    assert train(with_limit(config, needed), run) == 0
    line = f"features: {images} images and mirror images x 9 tokens x 64 = {needed / 1e6:.1f} MB, kept in "
    assert line in capsys.readouterr().out
    assert sum(np.load(file).nbytes for file in (run / "features").glob("*.npy")) == needed


def test_what_is_kept_already_needs_no_room(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(model={**MODEL, "features": str(tmp_path / "kept")}, epochs=1)
    assert train(config, tmp_path / "a") == 0
    capsys.readouterr()
    full = SimpleNamespace(free=10)
    monkeypatch.setattr("masksup.engine.features.shutil.disk_usage", lambda _: full)
    assert train(with_limit(config, 1), tmp_path / "b") == 0
    assert "features:" not in capsys.readouterr().out

    (next((tmp_path / "kept").glob("*plain*.npy"))).unlink()
    with pytest.raises(UserError, match=r"^model.features: the features would take .*tmp.* has 0.0 MB free; make room"):
        train(config, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_features_in_half_precision_take_half_of_the_room(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They lie beside those of full precision, of which they are the nearest, and the head learns from them alike."""
    half = {**MODEL, "features": str(tmp_path / "kept"), "features_dtype": "float16"}
    assert train(tiny_config(model=half, epochs=1), tmp_path / "half") == 0
    assert "x 9 tokens x 64 = 0.1 MB" in capsys.readouterr().out  # 120 images, 2 bytes a number
    of_half = {file: np.load(file) for file in (tmp_path / "kept").glob("*.npy")}
    assert train(tiny_config(model={**half, "features_dtype": "float32"}, epochs=1), tmp_path / "whole") == 0
    of_whole = [np.load(file) for file in (tmp_path / "kept").glob("*.npy") if file not in of_half]
    assert len(of_half) == len(of_whole) == 3
    for maps in of_half.values():
        assert maps.dtype == np.float16
        assert any(np.array_equal(maps, whole.astype(np.float16)) for whole in of_whole)

    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("half", "whole")]
    for score in ("mAP", "mAUROC"):
        assert results[0]["last"]["eval"][score] == pytest.approx(results[1]["last"]["eval"][score], abs=0.5)
    with pytest.raises(UserError, match=r"model\.features_dtype"):
        train(tiny_config(model={**half, "features_dtype": "float32"}, epochs=1), tmp_path / "half")


def test_a_file_in_the_place_of_the_folder_is_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    config = tiny_config(model={**MODEL, "features": str(tmp_path / "kept")}, epochs=1)
    with pytest.raises(UserError, match=r"^model\.features: .*/kept is a file, expected a folder"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_thread_reads_features_ahead_where_there_are_workers(
    workers: int, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers, read = set(), feature_batches._batch

    def says(*args: Any) -> Any:
        readers.add(threading.current_thread() is threading.main_thread())
        return read(*args)

    monkeypatch.setattr(feature_batches, "_batch", says)
    assert train(tiny_config(model=MODEL, epochs=1, data__workers=workers), tmp_path / "run") == 0
    assert readers == {workers == 0}
