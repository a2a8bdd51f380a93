"""`masksup smoke`: the chain holds, tells where it breaks, and touches nothing of the user's."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from masksup.cli import main
from masksup.errors import JobError
from masksup.export.check import Check
from masksup.smoke.chain import Trial, _judge

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
OTHERS = (
    "examples/shapes_mcar", "examples/coco_small_csra", "msl/voc2007_resnet101_cutmix_448_msl",
    "puzzle/voc2012_resnet50_512_puzzle", "oass/voc2012_resnet50_512_oass_ctopk",
    "modern/coco2014_swin_l_384_query2label", "modern/coco2014_resnet101_448_ml_decoder",
    "modern/mine_vit_b16_dinov3_448_probe", "modern/mine_convnext_b_448_full",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", ["examples/quickstart", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_the_chain_holds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)  # without the data that the configuration names
    assert main(["smoke", str(CONFIGS / f"{name}.yaml"), "--json"]) == 0
    said = capsys.readouterr()
    ways, out = json.loads(said.out)["ways"], said.err
    assert {way["precision"] for way in ways} == {"fp32", "fp16", "int8"}
    for precision in ("fp32", "fp16", "int8"):
        assert out.count(f"│ {precision} ") in (2, 4), out  # one or two numbers of threads
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_numbers_that_differ_end_it() -> None:
    good = Trial("fp32", "cpu", 1, 3, Check(6, "images", 1e-6, 1.0, None, None), 50.0, 1.0)
    _judge(good, 50.00001)
    for bad, says in (
        (replace(good, mean_ap=49.0), "mAP of fp32, cpu, 1 thread, batch 3 is 49.0, but mAP of masksup eval is 50"),
        (replace(good, check=replace(good.check, largest_difference=1e-3)), "fp32, cpu, 1 thread, batch 3: the exp"),
    ):
        with pytest.raises(JobError, match=says):
            _judge(bad, 50.00001)
