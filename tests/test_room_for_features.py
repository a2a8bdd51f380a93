"""What the features of a frozen backbone will take is said before they are computed, and refused if it is too much."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from masksup.config.schema import Config
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
