"""`masksup replay`: a step again has the numbers on record, bit for bit, and shows what was in it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masksup.base.log import start_logging
from masksup.cli import main
from masksup.data.index import open_index
from masksup.errors import UserError
from masksup.replay.again import replay
from masksup.runtime.metrics_rows import read_rows
from masksup.training.train import train

VIT: dict[str, Any] = {"model": {"backbone": "test_vit", "size": 32}}
RUNS: dict[str, dict[str, Any]] = {
    "clipped, moving average": {"optim__clip": 0.5},
    "MaskSup, bf16": {"method": {"name": "masksup", "bank": 8}, "precision__dtype": "bf16"},
    "one-cycle, short last steps": {"schedule": {"name": "onecycle"}, "data__last_batch": "partial"},
    "OASS": {"method": {"name": "oass"}, "model__size": 64},
    "LoRA": {"model": {**VIT["model"], "lora": {"rank": 4}}},
    "kept features": {"model__frozen": True},
}
SLOW = pytest.mark.slow
SHORT = ("MaskSup, bf16", "kept features")


@pytest.mark.parametrize(
    "what", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_a_step_again_has_the_numbers_on_record_bit_for_bit(what: str, tiny_config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny_config(epochs=3, checkpoint={"every_steps": 4, "keep": 9}, **RUNS[what])
    assert train(config, run) == 0
    start_logging()  # no longer into the run folder
    rows = {row["step"]: row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"}
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    for step, began, redone in ((2, "the start", 1), (5, "step-000000004-a01", 0), (7, "step-000000004-a01", 2)):
        found = replay(run, step)
        assert (found.began, found.redone) == (began, redone)
        assert (found.loss, found.gradient_norm) == (rows[step]["loss"], rows[step]["gradient_norm"])
        assert found.learning_rate == rows[step]["learning_rate"]
        assert found.same is True
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def plain(tiny_config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without flips and ignored pairs, whose two micro-batches of a step have eight images each."""
    run: Path = tmp_path_factory.mktemp("plain") / "run"
    images = {"crop": "squish", "flip": 0.0}
    assert train(tiny_config(augment=images, data__ignored="negative", log__every_steps=3, epochs=1), run) == 0
    return run


def test_losses_gradients_and_pictures_are_those_of_the_step(plain: Path, tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["replay", str(plain), "--step", "3", "--out", str(out)]) == 0
    facts = json.loads((out / "replay.json").read_text())
    assert facts["same"] is True
    parts = facts["micro_batches"]
    assert [len(part["images"]) for part in parts] == [8, 8]
    each = [image["loss"] for part in parts for image in part["images"]]
    assert np.mean(each) == pytest.approx(facts["loss"], rel=1e-5)
    norms = [part["gradient_norm"] for part in parts]
    assert abs(norms[0] - norms[1]) / 2 * 0.9999 <= facts["gradient_norm"] <= np.mean(norms) * 1.0001
    sheet = Image.open(out / "micro-00-pass-1.png")
    assert sheet.size == (8 * (32 + 2) + 2, 32 + 4)
    index = open_index(tiny_data / "train")
    samples = {index.id(at): at for at in range(len(index))}
    for place, image in enumerate(parts[0]["images"]):
        shown = np.asarray(sheet)[2:34, 2 + 34 * place :][:, :32].astype(int)
        photo = Image.open(index.path(samples[image["id"]])).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        assert np.abs(shown - np.asarray(photo).astype(int)).mean() < 6, image["id"]


def test_what_cannot_be_compared_or_repeated_is_said(plain: Path, tmp_path: Path, capsys) -> None:
    assert main(["replay", str(plain), "--step", "2", "--out", str(tmp_path / "two")]) == 0
    assert "metrics.jsonl has no row of step 2" in capsys.readouterr().out
    (tmp_path / "file").touch()
    for words, told in (
        ([str(plain), "--step", "3", "--out", str(tmp_path / "file")], "file: found a file, expected the name of a fo"),
        ([str(plain), "--step", "5"], "--step: found 5, expected 1 to 4, the steps of"),
        ([str(plain), "--step", "0"], "--step: found 0, expected 1 to 4"),
        ([str(tmp_path), "--step", "1"], "found no config.yaml, expected a run folder"),
    ):
        assert main(["replay", *words]) == 2
        printed, said = capsys.readouterr()
        assert told in said
        assert said.count("\n") == 1
        assert not printed  # it is said before the step is repeated
    assert not (plain / "replay").exists()


def test_a_step_that_the_run_did_not_reach_is_said(plain: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "copy"
    shutil.copytree(plain, run, symlinks=True, ignore=shutil.ignore_patterns("checkpoints"))
    rows = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(row for row in rows if json.loads(row)["step"] < 4) + "\n")
    assert main(["replay", str(run), "--step", "3"]) == 0
    assert "is on no record" not in capsys.readouterr().out
    assert main(["replay", str(run), "--step", "4"]) == 0
    assert "step 4 is on no record" in capsys.readouterr().out


CROPS: dict[str, dict[str, Any]] = {
    "oass": {"name": "oass", "strategy": "cmax", "points": 1},
    "puzzle": {"name": "puzzle"},
    "mcar": {"name": "mcar"},
}


@pytest.mark.parametrize("method", ["oass", pytest.param("puzzle", marks=SLOW), pytest.param("mcar", marks=SLOW)])
def test_methods_that_cut_images_show_image_and_parts(method: str, tiny_config, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert train(tiny_config(epochs=1, method=CROPS[method], model__size=64, augment__flip=0.0), run) == 0
    assert main(["replay", str(run), "--step", "1", "--out", str(out)]) == 0
    facts = json.loads((out / "replay.json").read_text())
    whole, parts = (Image.open(out / f"micro-00-pass-{n}.png") for n in (1, 2))
    assert whole.size == (8 * (64 + 2) + 2, 66 + 2)
    assert whole.size != parts.size or np.any(np.asarray(whole) != np.asarray(parts))
    found = replay(run, 1)
    looks = {"oass": 1, "puzzle": 2, "mcar": 2}[method]  # crops with a label each of their own are no look at an image
    assert [len(part.losses) for part in found.micro_batches] == [looks, looks]
    assert facts["same"] is not False


def test_another_result_than_on_record_is_a_warning(plain: Path, tmp_path: Path, capsys) -> None:
    """As where another device computed the record."""
    run = tmp_path / "copy"
    shutil.copytree(plain, run, symlinks=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "train":
            row["loss"] = np.nextafter(row["loss"], 1)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["replay", str(run), "--step", "3"]) == 0
    assert "WARNING: metrics.jsonl has loss" in capsys.readouterr().out
    assert json.loads((run / "replay" / "step-000000003" / "replay.json").read_text())["same"] is False


def test_a_run_whose_gradients_are_not_finite_names_the_command(tiny_config, tmp_path: Path, capsys) -> None:
    run = tmp_path / "a run"
    diverges = {"optim": {"name": "sgd", "lr": 1e30, "max_skipped": 2}, "optim__max_skipped": 2}
    with pytest.raises(UserError, match=r"masksup replay '\S+a run' --step \d+ shows the last") as error:
        train(tiny_config(epochs=2, **diverges), run)
    step = int(re.findall(r"--step (\d+)", str(error.value))[0])
    assert main(["replay", str(run), "--step", str(step)]) == 0
    facts = json.loads((run / "replay" / f"step-{step:09d}" / "replay.json").read_text())
    assert facts["gradient_norm"] is None
    assert list((run / "replay" / f"step-{step:09d}").glob("*.png"))
