"""tools/cross_validate.py: every image held out once, settings ranked, nothing else opened."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from sklearn.metrics import average_precision_score

from masksup.config.load import dump
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.errors import UserError
from masksup.selection.out_of_fold import fold_config, held_out_fold, pooled


def _tool(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return _tool("cross_validate")


def test_combinations_keep_commas_within_brackets(tool: ModuleType) -> None:
    found = list(tool.combinations(["optim.lr=0.1,1e-2", "augment.scale=[0.5,1],[0.7,1]"]))
    assert found == [
        ("optim.lr=0.1", "augment.scale=[0.5,1]"),
        ("optim.lr=0.1", "augment.scale=[0.7,1]"),
        ("optim.lr=1e-2", "augment.scale=[0.5,1]"),
        ("optim.lr=1e-2", "augment.scale=[0.7,1]"),
    ]
    assert list(tool.combinations([])) == [()]
    with pytest.raises(UserError, match=r"--vary: found 'optim\.lr'"):
        list(tool.combinations(["optim.lr"]))


@pytest.mark.parametrize("frozen", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_pooled_held_out_scores(
    tool: ModuleType, tiny_config: Callable[..., Config], tiny_data: Path, tmp_path: Path, frozen: bool
) -> None:
    """Every training image is held out exactly once, and the mAP is scikit-learn's on the pooled logits."""
    overrides = {
        "data__test": str(tmp_path / "never opened"),
        "model__frozen": frozen,
        "epochs": 1,
        "eval__bootstrap": 0,
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(dump(tiny_config(**overrides))), encoding="utf-8")
    command = [str(file), "--folds", "3", "--vary", "optim.lr=0.003,0.00001", "--min-positives", "8"]
    command += ["--out", str(tmp_path / "out")]
    assert tool.main(command) == 0

    found = json.loads((tmp_path / "out" / "cross_validation.json").read_text())
    rows = found["rows"]
    assert [row["mAP"] for row in rows] == sorted((row["mAP"] for row in rows), reverse=True)
    assert {row["images"] for row in rows} == {50}
    files = sorted((tmp_path / "out" / "held_out").iterdir())
    assert len(files) == 6  # three of each of the two settings
    pools = {}
    for row in rows:
        features = tmp_path / "out" / "features"
        configs = [fold_config(file, row["setting"], 3, fold, features) for fold in range(3)]
        together = pooled([held_out_fold(config, tmp_path / "out") for config in configs])
        assert list(together.samples_N) == list(range(50))
        pools[row["mAP"]] = together.logits_NC, together.labels_NC

    train_labels_NC = np.asarray(open_index(tiny_data / "train").labels_NC)
    counted_C = (train_labels_NC == 1).sum(0) >= 8
    assert 0 < counted_C.sum() < len(counted_C)
    for mean_ap, (logits_NC, labels_NC) in pools.items():
        kept = [labels_NC[:, c] >= 0 for c in range(labels_NC.shape[1])]
        expected = [
            average_precision_score(labels_NC[kept[c], c], logits_NC[kept[c], c]) for c in np.flatnonzero(counted_C)
        ]
        assert mean_ap == pytest.approx(100 * np.mean(expected), abs=1e-6)


def test_only_names_its_range(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["none.yaml", "--only", "6", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "cross_validate: --only: found 6, expected 1 to 5\n"


def test_scores_over_learnt_and_all_classes() -> None:
    found = _tool("score_seeds").mean_scores({"a": 50.0, "b": None, "c": 100.0}, {"a": True, "b": True, "c": False})
    assert found == {"learnt classes": (50.0, 1), "all classes": (75.0, 2)}
