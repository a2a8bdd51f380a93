"""A search that Optuna guides, call by call."""

import builtins
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.__main__ import main
from launch.ledger import Folder, write_json
from launch.sweeps.guided import keep, propose
from launch.sweeps.settings import Guided
from masksup.errors import UserError

SEARCH = Guided(
    count=30, at_once=3, keys={"lr": {"log": [1e-4, 1.0]}, "width": {"integer": [1, 9]}, "loss": {"choice": ["a", "b"]}}
)


def score(keys: dict[str, Any]) -> float:
    return 90 - 20 * abs(keys["lr"] - 0.03) - 3 * abs(keys["width"] - 7) - 30 * (keys["loss"] == "a")


def finish(home: Path, name: str, value: float) -> None:
    (home / name / "seed0").mkdir(parents=True)
    (home / name / "seed0" / "result.json").write_text(json.dumps({"best": {"eval": {"mAP": value}}}))


def test_later_settings_are_better_and_earlier_ones_stay(tmp_path: Path) -> None:
    found = []
    for _ in range(10):
        before, found = found, propose("x.yaml", SEARCH, tmp_path)
        assert propose("x.yaml", SEARCH, tmp_path) == found, "nothing was written, so a dry run shows what will be"
        assert found[: len(before)] == before
        assert len(found) == len(before) + 3
        keep(tmp_path, found)
        for name, keys in found[len(before) :]:
            finish(tmp_path, name, score(keys))
    assert [name for name, _ in found] == [f"guided{k:03d}" for k in range(30)]
    assert all(1e-4 <= k["lr"] <= 1 and 1 <= k["width"] <= 9 for _, k in found)
    assert propose("x.yaml", SEARCH, tmp_path) == found
    scores = [score(keys) for _, keys in found]
    assert statistics.fmean(scores[-10:]) > statistics.fmean(scores[:10]) + 5, scores


def test_settings_under_way_leave_no_room_and_failed_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, propose("x.yaml", SEARCH, tmp_path))
    for k in range(3):
        Folder(tmp_path / f"guided00{k}" / "seed0").path.mkdir(parents=True)
        write_json(Folder(tmp_path / f"guided00{k}" / "seed0").job, {"job": f"local-{k}", "cluster": "local"})
    under_way = {"local-0", "local-1", "local-2"}
    monkeypatch.setattr("launch.cluster.local.alive", lambda job, _: job in under_way)
    assert len(propose("x.yaml", SEARCH, tmp_path)) == 3
    under_way.remove("local-1")  # it left no result
    assert len(propose("x.yaml", SEARCH, tmp_path)) == 4
    narrower = SEARCH.model_copy(update={"keys": {"lr": {"log": [0.01, 0.02]}}})
    assert 0.01 <= propose("x.yaml", narrower, tmp_path)[3][1]["lr"] <= 0.02


def test_a_sweep_shows_what_it_would_try_and_says_what_is_wrong(
    tmp_path: Path, tiny_config: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from masksup.config.load import to_yaml

    (tmp_path / "base.yaml").write_text(to_yaml(tiny_config()))
    tree: dict[str, Any] = {"base": "base.yaml", "guided": {"count": 5, "keys": {"optim.lr": {"log": [0.001, 0.01]}}}}
    file = tmp_path / "search.yaml"
    words = ["sweep", str(file), "--sweep-dir", str(tmp_path / "home"), "--cluster", "local", "--dry-run"]
    file.write_text(yaml.safe_dump(tree))
    assert main(words) == 0
    assert capsys.readouterr().out.count("to submit  guided00") == 4
    assert not (tmp_path / "home").exists()

    tree["guided"]["keys"] = {"optim.lr": {"log": [0, 1]}}
    file.write_text(yaml.safe_dump(tree))
    assert main(words) == 2
    assert "guided.keys.optim.lr: log: found [0, 1], expected a low and a high number" in capsys.readouterr().err

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="found no Optuna here"):
        propose("x.yaml", SEARCH, tmp_path)
