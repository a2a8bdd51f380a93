"""Training and scoring from Python are those of the commands; what the page says of them runs."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_readme import SMALL, block, take_photographs

import masksup
from masksup.api.finished import FinishedRun
from masksup.base.signals import stop_requested
from masksup.cli import main
from masksup.config.load import load_config, load_settings, to_yaml
from masksup.config.schema import Config
from masksup.errors import JobError, UserError
from masksup.evaluation import kept
from masksup.runtime.metrics_rows import read_rows
from masksup.training import train as training

MakeConfig = Callable[..., Config]


def test_what_the_page_says_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    take_photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "csv", "--root", "photos", "--csv", "train.csv", "--csv", "val.csv", "--out", "data"]) == 0
    Path("mine.yaml").write_text("data: {train: data/train, eval: data/val}\n")
    config = load_config(Path("mine.yaml"), [*SMALL, "eval.bootstrap=20"])[0]
    Path("mine.yaml").write_text(to_yaml(config))
    for number, name in enumerate(("a.jpg", "b.jpg")):
        Path(f"new_photos/new{number}.jpg").rename(name)
    names: dict[str, object] = {}
    said = {}
    for mark in ("train", "settings", "pandas", "evaluate", "predict", "mistake"):
        capsys.readouterr()
        exec(block("docs/python.md", f"tested: {mark}", "python"), names)
        said[mark] = capsys.readouterr().out
    run, other = names["run"], names["other"]
    assert isinstance(run, FinishedRun)
    assert isinstance(other, FinishedRun)
    assert run.folder == Path("runs/mine")
    assert f"{run!r}\n" in said["train"]
    assert run.config.optim.lr == 0.001
    assert other.config.model.head.name == "csra"
    scores = names["scores"]
    assert isinstance(scores, dict)
    assert (scores["mAP"], scores["AP"]) == (run.scores["mAP"], run.scores["AP"])
    assert said["evaluate"].splitlines()[-2].startswith(f"{scores['mAP']}")
    assert said["pandas"].splitlines()[-1].split()[-1] == f"{run.metrics.of('train')[-1]['loss']:.6f}"
    assert said["predict"].endswith("2 2\n")
    assert said["mistake"].endswith("optim.learning_rate: unknown key; did you mean optim.lr=0.1?\n")


def test_the_same_run_as_by_the_command(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle, it goes on by the same call; whatever a signal did before, it does afterwards."""
    (tmp_path / "run.yaml").write_text(to_yaml(tiny_config()))
    assert main(["train", str(tmp_path / "run.yaml"), "optim.lr=0.002", "--run-dir", str(tmp_path / "command")]) == 0
    settings, folder = {"optim": {"lr": 0.002}}, tmp_path / "python"
    handler = signal.getsignal(signal.SIGTERM)
    step = training.log_step

    def stop(number: signal.Signals) -> Callable[..., None]:
        def log_and_stop(run: object, *arguments: object) -> None:
            step(run, *arguments)  # type: ignore[arg-type]
            os.kill(os.getpid(), number)

        return log_and_stop

    for number, raised in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, JobError)):
        monkeypatch.setattr(training, "log_step", stop(number))
        with pytest.raises(raised):
            masksup.train(tmp_path / "run.yaml", settings, folder)
        assert signal.getsignal(signal.SIGTERM) is handler
        assert stop_requested() is None
    monkeypatch.setattr(training, "log_step", step)
    run = masksup.train(str(tmp_path / "run.yaml"), settings, str(folder))
    again = masksup.train(tmp_path / "run.yaml", {"optim.lr": 0.002}, folder)
    assert again.result == run.result
    theirs = FinishedRun(tmp_path / "command")
    assert run.result["starts"] == 3
    assert run.scores["AP"] == theirs.scores["AP"]
    assert run.checkpoint.name.partition("-a")[0] == theirs.checkpoint.name.partition("-a")[0]
    losses = [[row["loss"] for row in metrics.of("train")] for metrics in (run.metrics, theirs.metrics)]
    assert losses[0] == losses[1]
    assert run.metrics == read_rows(folder / "metrics.jsonl")
    svg = run.curves()
    assert svg._repr_svg_().count("<path") >= 6
    assert "loss by epoch" in svg
    _scores_and_labels_agree(run, tmp_path)


def _scores_and_labels_agree(run: FinishedRun, place: Path) -> None:
    assert main(["eval", str(run.folder), "--threshold", "0.4", "--json", str(place / "scores.json")]) == 0
    assert masksup.evaluate(run, threshold=0.4) == json.loads((place / "scores.json").read_text())
    pixels = np.random.default_rng(0).integers(0, 255, (5, 40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(place / "a.png")
    model = run.model(batch=2)
    batch = model.predict(pixels)
    assert len(batch) == 5
    assert model.predict(torch.from_numpy(pixels).permute(0, 3, 1, 2)) == batch
    several = [place / "a.png", Image.fromarray(pixels[1]), pixels[2], torch.from_numpy(pixels[3]).permute(2, 0, 1)]
    for one, found in zip(model.predict(several), batch):
        assert one.probabilities == pytest.approx(found.probabilities, abs=1e-6)
    assert model.predict(place / "a.png")[0].probabilities == pytest.approx(batch[0].probabilities, abs=1e-6)


def test_an_evaluation_that_is_stopped(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = masksup.train(json.loads(tiny_config(epochs=1).model_dump_json(by_alias=True)), run_dir=tmp_path / "run")
    asked = kept.stop_requested
    monkeypatch.setattr(kept, "stop_requested", lambda: os.kill(os.getpid(), signal.SIGTERM) or asked())
    with pytest.raises(JobError, match="stopped by SIGTERM; the same call goes on from there"):
        masksup.evaluate(run, batch=4)


def test_mistakes_are_told_in_one_line_and_change_nothing(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(to_yaml(tiny_config(epochs=1)))
    tree = {"data": {"train": Path("data")}, "model": {"backbone": "test_resnet"}}
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: masksup.train("no.yaml"), r"no\.yaml: no such configuration file"),
        (lambda: masksup.train("run.yaml", {"optim.lr": -1}), r"optim\.lr: found -1"),
        (lambda: masksup.train("run.yaml", {"epochs.lr": 1}), r"settings\['epochs.lr'\]: 'epochs' is a value"),
        (lambda: masksup.train("run.yaml", {1: 2}), "settings: found the key 1, expected text"),  # type: ignore[dict-item]
        (lambda: masksup.train(tree), "run_dir: not given"),
        (lambda: masksup.train(tree, run_dir="runs/a"), "data"),
        (lambda: masksup.evaluate("runs/none"), "runs/none: no such run folder"),
        (lambda: masksup.evaluate("runs/none", ap_rule="mean"), r"masksup.evaluate: eval.ap_rule: found 'mean'"),
        (lambda: masksup.evaluate("runs/none", masked="half"), "masked: found 'half', expected None, low, high"),  # type: ignore[arg-type]
        (lambda: FinishedRun("runs/none"), "runs/none/result.json: no such file, expected the result of a training"),
    ]
    for call, told in cases:
        with pytest.raises(UserError, match=told) as error:
            call()
        assert "\n" not in str(error.value)
    assert not Path("runs").exists()
    monkeypatch.setitem(sys.modules, "pandas", None)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UserError, match="pandas is not installed; pip install pandas"):
        FinishedRun(tmp_path).metrics.to_pandas()


def test_settings_are_those_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: {train: a}\nmodel: {backbone: b, head: {name: csra, lam: 0.2}}\n")
    words = ["model.head.name=linear", "optim.betas=[0.9,0.95]", "model.weights=none", "optim.clip=1"]
    model = {"head": {"name": "linear"}, "weights": "none"}
    settings = {"model": model, "optim.betas": (0.9, 0.95), "optim.clip": 1}
    config = load_config(tmp_path / "a.yaml", words)[0]
    assert load_settings(tmp_path / "a.yaml", settings) == config
    tree = {"extends": tmp_path / "a.yaml", "epochs": 3}
    assert load_settings(tree, settings) == config.model_copy(update={"epochs": 3.0})
    assert tree == {"extends": tmp_path / "a.yaml", "epochs": 3}


def test_in_another_thread_no_signal_is_taken(tiny_config: MakeConfig, tmp_path: Path) -> None:
    handler, found = signal.getsignal(signal.SIGINT), []
    tree = json.loads(tiny_config(epochs=1).model_dump_json(by_alias=True))
    thread = threading.Thread(target=lambda: found.append(masksup.train(tree, run_dir=tmp_path / "run")))
    thread.start()
    thread.join(120)
    assert found[0].scores["mAP"] > 0
    assert signal.getsignal(signal.SIGINT) is handler
