"""tools/compare_methods.py: every contender trains as it says, its scores are those of `masksup eval`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from masksup.cli import main
from masksup.config.load import load_config, to_yaml
from masksup.config.schema import Config
from tools import compare_methods

MakeConfig = Callable[..., Config]


@pytest.fixture
def base(tiny_config: MakeConfig, tiny_data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    data = {"train": str(tiny_data / "train"), "test": str(tiny_data / "test"), "workers": 0}
    path.write_text(
        to_yaml(tiny_config(data=data, epochs=0.5, ema={"decay": 0.0}, schedule={"name": "constant"}, model__size=64))
    )
    return path


def test_every_contender_is_what_its_name_says(base: Path) -> None:
    made = {name: load_config(base, overrides)[0] for name, overrides in compare_methods.CONTENDERS.items()}
    assert {name: (c.model.head.name, c.method.name) for name, c in made.items()} == {
        "linear": ("linear", "baseline"), "csra": ("csra", "baseline"), "csra, half masked": ("csra", "masksup"),
        "csra + masksup": ("csra", "masksup"), "mcar, 2 regions": ("linear", "mcar"), "oass": ("csi", "oass"),
    }  # fmt: skip
    assert made["csra, half masked"].method.options["views"] == "mixed"
    assert made["csra + masksup"].method.options["views"] == "auto"


@pytest.mark.slow
def test_scores_are_those_of_eval_and_a_second_call_trains_nothing(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [str(base), "--only", "csra + masksup", "--seeds", "0", "1", "--out", str(tmp_path / "out")]
    assert compare_methods.main(call) == 0
    summary = json.loads((tmp_path / "out" / "equal_epochs.json").read_text())
    assert list(summary) == ["csra + masksup"]
    run = tmp_path / "out" / "csra_+_masksup-0.5" / "seed-1"
    for view, extra in (("clean", []), ("high", ["--masked", "high"])):
        file = tmp_path / f"{view}.json"
        assert main(["eval", str(run / "checkpoints" / "latest"), "--json", str(file), *extra]) == 0
        ours = summary["csra + masksup"][f"{view}, all classes"]
        assert ours["seeds"][1] == pytest.approx(json.loads(file.read_text())["mAP"], abs=1e-9)
        assert ours["mean"] == pytest.approx(sum(ours["seeds"]) / 2)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert compare_methods.main(call) == 0
    assert json.loads((tmp_path / "out" / "equal_epochs.json").read_text()) == summary
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}


@pytest.mark.slow
def test_equal_time_gives_slower_methods_fewer_epochs(base: Path, tmp_path: Path) -> None:
    call = [str(base), "--equal", "time", "--only", "csra + masksup", "--seeds", "0", "--out", str(tmp_path / "out")]
    assert compare_methods.main([*call, "epochs=2"]) == 0
    ratio = json.loads((tmp_path / "out" / "steps.json").read_text())["ratio_to_linear"]
    assert ratio["linear"] == 1
    assert ratio["mcar, 2 regions"] > ratio["csra + masksup"] > 1.2
    epochs = json.loads((tmp_path / "out" / "equal_time.json").read_text())["csra + masksup"]["epochs"]
    assert epochs == pytest.approx(2 / ratio["csra + masksup"], abs=0.126)
