"""What a run says of its final weights under masks, and of strata: result.json, TensorBoard, the printed tables."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from masksup.cli import main
from masksup.evaluation.scores import evaluate
from masksup.runtime.metrics_rows import read_rows
from masksup.training.train import train

EVAL = {"masked": ["low", "high"], "size_shares": [0.08, 0.2], "bootstrap": 50}


@pytest.fixture(scope="module")
def run(tiny_config, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked") / "run"
    config = tiny_config(eval=EVAL, data__test=str(tiny_data / "test"), epochs=3, optim__lr=0.01)
    assert train(config, folder) == 0
    return folder


def test_the_result_equals_what_eval_says_under_the_same_masks(run, tiny_data, tmp_path):
    result = json.loads((run / "result.json").read_text())
    for part in ("eval", "test"):
        clean = result["best"][part]
        assert set(clean["masked"]) == {"low", "high"}
        for level in ("low", "high"):
            masked = clean["masked"][level]
            file = tmp_path / f"{part}-{level}.json"
            data = str(tiny_data / {"eval": "val"}.get(part, part))
            assert main(["eval", str(run), "--data", data, "--masked", level, "--json", str(file)]) == 0
            again = json.loads(file.read_text())
            assert again["AP"] == masked["AP"]
            assert again["stratified"] == masked["stratified"]
            assert again["protocol"]["masked"] == masked["protocol"]["masked"]
            assert masked["AP"] != clean["AP"]
            assert masked["protocol"]["checkpoint_sha256"] == clean["protocol"]["checkpoint_sha256"]
    assert result["last"]["test"]["masked"]["high"]["protocol"]["masked"]["level"] == "high"


def test_tensorboard_shows_strata_of_each_evaluation_and_masked_scores_at_the_end(run):
    result = json.loads((run / "result.json").read_text())
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    for name in ("only_small", "only_medium", "only_large", "only_occluded", "only_not_occluded"):
        assert f"{name}/mAP" in tags
        assert len(events.Scalars(f"{name}/OR")) == 3
    last = result["last"]["eval"]["stratified"]["occlusion"]["strata"]["occluded"]["mAP"]
    assert events.Scalars("only_occluded/mAP")[-1].value == pytest.approx(last)
    for level in ("low", "high"):
        (point,) = events.Scalars(f"masked_{level}/mAP")
        assert point.value == pytest.approx(result["best"]["test"]["masked"][level]["mAP"])
        assert point.step == result["steps"]
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "masked_high"]
    assert len(rows) == 1


def test_a_run_prints_its_masked_scores_beside_the_clean_ones(tiny_config, tmp_path, capsys):
    assert train(tiny_config(eval=EVAL, epochs=1), tmp_path / "run") == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((tmp_path / "run" / "result.json").read_text())["best"]["eval"]
    shown = {"nothing": result, "1-10 % (low)": result["masked"]["low"], "50-60 % (high)": result["masked"]["high"]}
    for name, summary in shown.items():
        (line,) = [line for line in lines if f"│ {name} " in line]
        assert [cell.strip() for cell in line.split("│")[2:-1]] == [
            f"{summary[key]:.2f}" for key in ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")
        ]
    assert any("Scores by size and occlusion of the objects" in line for line in lines)


def test_a_frozen_run_is_masked_from_its_images(tiny_config, tiny_data, tmp_path):
    config = tiny_config(
        eval={"masked": ["high"], "bootstrap": 0}, model__frozen=True, augment={"flip": 0.0}, epochs=1
    )  # fmt: skip
    assert train(config, tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())["best"]["eval"]
    assert result["mAP_interval"] is None
    file = tmp_path / "again.json"
    data = ["--data", str(tiny_data / "val"), "--masked", "high", "--json", str(file)]
    assert main(["eval", str(tmp_path / "run"), *data]) == 0
    assert json.loads(file.read_text())["AP"] == pytest.approx(result["masked"]["high"]["AP"])


def test_bootstrap_of_eval_is_that_of_the_command_line_and_repeats(run, tiny_data, tmp_path):
    found = {}
    for name, options in (("run", []), ("again", []), ("none", ["--bootstrap", "0"]), ("more", ["--bootstrap", "80"])):
        file = tmp_path / f"{name}.json"
        assert main(["eval", str(run), "--data", str(tiny_data / "val"), "--json", str(file), *options]) == 0
        found[name] = json.loads(file.read_text())
    assert found["run"] == found["again"]
    assert found["run"]["mAP_interval"] == json.loads((run / "result.json").read_text())["best"]["eval"]["mAP_interval"]
    assert found["none"]["mAP_interval"] is found["none"]["protocol"]["intervals"] is None
    assert found["more"]["protocol"]["intervals"]["resamples"] == 80
    assert found["more"]["mAP_interval"] != found["run"]["mAP_interval"]


def test_the_best_and_the_last_weights_are_each_scored_as_they_are(tiny_config, tmp_path, monkeypatch):
    """The first epoch is said to be the best, whatever training makes of the others."""
    measured: list[float] = []

    def raised_once(*args, **kwargs):
        summary = evaluate(*args, **kwargs)
        measured.append(summary["mAP"])
        return summary | ({"mAP": 101.0} if len(measured) == 1 else {})

    monkeypatch.setattr("masksup.training.score_run.evaluate", raised_once)
    config = tiny_config(epochs=4, ema__decay=0.0, eval={"masked": ["low"], "bootstrap": 0})
    assert train(config, tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    best, last = result["best"], result["last"]
    assert (best["step"], last["step"]) == (4, 13)
    assert (best["eval"]["mAP"], last["eval"]["mAP"]) == (measured[0], measured[3])
    assert best["eval"]["masked"]["low"]["AP"] != last["eval"]["masked"]["low"]["AP"]
