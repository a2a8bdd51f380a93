"""Files of earlier versions open today (`tests/kept`)."""

import csv
import json
import zipfile
from pathlib import Path

import pytest
from timm.models import register_model
from torch import Tensor, nn

import masksup
from masksup.cli import main
from masksup.data.index import open_index
from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint

VERSIONS = sorted((Path(__file__).parent / "kept").glob("*.zip"))


class KeptNet(nn.Module):
    """Two strided convolutions to a map of 16 channels at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 8), (8, 16)):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.num_features = 16
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        x_BDHW: Tensor = self.layers(x_BCHW)
        return x_BDHW

    forward = forward_features


@register_model
def kept_net(pretrained: bool = False, **_: object) -> nn.Module:
    return KeptNet()


@pytest.fixture(params=VERSIONS, ids=lambda path: path.stem)
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a version, unpacked, as the current folder; files name it in place of `/kept`."""
    with zipfile.ZipFile(request.param) as file:
        for member in file.infolist():
            target = tmp_path / member.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.external_attr >> 28 == 0o12:
                target.symlink_to(file.read(member).decode())
            else:
                target.write_bytes(file.read(member))
    for file in (*tmp_path.glob("runs/*/config.yaml"), *tmp_path.rglob("index.json")):
        file.write_text(file.read_text().replace("/kept/", f"{tmp_path}/"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_scores_as_it_did(kept: Path) -> None:
    before = json.loads((kept / "scores.json").read_text())
    for model in ("runs/finished", "model.zip"):
        assert main(["eval", model, "--data", "data/val", "--json", "now.json"]) == 0
        now = json.loads((kept / "now.json").read_text())
        assert now["AP"] == pytest.approx(before["AP"], abs=1e-9)
        assert now["protocol"]["index"] == before["protocol"]["index"]


def test_a_run_labels_as_it_did_with_its_thresholds(kept: Path) -> None:
    assert main(["predict", "runs/finished", "photos", "--out", "now.csv"]) == 0
    before, now = (list(csv.reader((kept / name).open())) for name in ("labels.csv", "now.csv"))
    assert now[0] == before[0]
    for old, new in zip(before[1:], now[1:], strict=True):
        assert new[0] == old[0]
        assert [float(p) for p in new[1:]] == pytest.approx([float(p) for p in old[1:]], abs=2e-6)
    decided = json.loads((kept / "runs" / "finished" / "decisions.json").read_text())
    assert list(masksup.load("model.zip").decisions.thresholds) == pytest.approx(decided["thresholds"])


def test_a_stopped_run_goes_on_with_its_own_configuration(kept: Path) -> None:
    assert main(["train", "kept.yaml", "--run-dir", "runs/stopped"]) == 0
    rows = [json.loads(line) for line in (kept / "runs/stopped/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 9))
    assert json.loads((kept / "runs/stopped/result.json").read_text())["steps"] == 8
    (saved, *_) = list_checkpoints(kept / "runs/stopped/checkpoints")
    assert read_checkpoint(saved).meta["config"]["parallel"]["sum"] == "ring", "as its version added up"


def test_a_step_is_done_again_as_it_was(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Version 0.1 added the losses of a step in float32."""
    assert main(["replay", "runs/finished", "--step", "3"]) == 0
    assert "metrics.jsonl has the same loss and gradient norm, bit for bit" in capsys.readouterr().out


def test_a_finished_run_is_finished(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "kept.yaml", "epochs=2", "checkpoint.keep=2", "--run-dir", "runs/finished"]) == 0
    assert "is finished" in "".join(capsys.readouterr())


def test_shards_hold_the_images_of_the_index(kept: Path) -> None:
    files, shards = open_index(kept / "data" / "train"), open_index(kept / "shards" / "train")
    assert shards.hash == files.hash
    assert [shards.read(i) for i in range(16)] == [files.read(i) for i in range(16)]


def test_an_exported_model_labels(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    from masksup.inference.command import main as run_exported

    assert run_exported(["model.onnx", "photos", "--out", "now.csv"]) == 0
    before, now = (list(csv.reader((kept / name).open())) for name in ("labels.csv", "now.csv"))
    for old, new in zip(before[1:], now[1:], strict=True):
        assert [float(p) for p in new[1:]] == pytest.approx([float(p) for p in old[1:]], abs=2e-3)
