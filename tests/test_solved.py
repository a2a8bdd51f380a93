"""A run whose head is solved: what it minimises, that it resumes, and that all that follows a training works on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_same_run, final_state

from masksup.cli import main
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.data.shapes import prepare_shapes
from masksup.data.split import open_source
from masksup.data.write_index import write_index
from masksup.engine.build import new_method
from masksup.engine.feature_batches import targets_of
from masksup.engine.features import FeatureFolder
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint
from masksup.saved.open import open_trained
from masksup.training import solve
from masksup.training.train import train

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def solved_config(tiny_config: MakeConfig) -> MakeConfig:
    """As `tiny_config`, with a head that is solved."""

    def make(**overrides: Any) -> Config:
        head = {"name": "linear", "dropout": 0.0}
        ours = {"optim": {"name": "lbfgs"}, "model__frozen": True, "model__head": head, "ema": {}, "schedule": {}}
        return tiny_config(**{**ours, **overrides})

    return make


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory: pytest.TempPathFactory, solved_config: MakeConfig) -> Path:
    run = tmp_path_factory.mktemp("solved") / "run"
    torch.set_num_threads(1)
    assert train(solved_config(), run) == 0
    return run


@pytest.fixture
def signal_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A signal that comes after so many looks at it while the head is solved; later nobody asks."""

    def come(looks: int) -> None:
        left = [looks]

        def stop_requested() -> str | None:
            left[0] -= 1
            return "SIGTERM" if left[0] < 0 else None

        monkeypatch.setattr(solve, "stop_requested", stop_requested)
        monkeypatch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM" if left[0] < 0 else None)

    return come


def gradient(run: Path, config: Config, l2: float) -> tuple[float, float, float]:
    """Of the run's own loss module over all images and, where it flips, their mirror images, each as often as it would
    be drawn, plus the penalty: the largest element at the run's head, the same at weights 0, and the loss itself."""
    trained = open_trained(run)
    part = open_source(config.data, config.seed).train
    loss = new_method(config, trained.network, len(trained.classes), part).loss.double()
    folder = FeatureFolder(run / "features", trained.network, config, torch.device("cpu"), torch.float32)
    maps = folder.features(part, True, print)
    assert maps.flipped is not None
    targets_NC = torch.from_numpy(targets_of(part, config)[part.samples])
    views = [(maps.plain, 1 - config.augment.flip), (maps.flipped, config.augment.flip)]

    def at(weight_CD: torch.Tensor, bias_C: torch.Tensor) -> tuple[float, float]:
        fc = [value.double().requires_grad_() for value in (weight_CD, bias_C)]
        logits = [torch.from_numpy(view[part.samples]).double().mean((2, 3)) @ fc[0].T + fc[1] for view, _ in views]
        mean = sum(share * loss(one, targets_NC) for one, (_, share) in zip(logits, views, strict=True))
        total = mean * (targets_NC >= 0).sum() + l2 / 2 * fc[0].square().sum()
        return max(float(g.abs().max()) for g in torch.autograd.grad(total, fc)), float(mean.detach())

    head = trained.network.head.fc
    found, mean = at(head.weight.detach(), head.bias.detach())
    return found, at(torch.zeros_like(head.weight), torch.zeros_like(head.bias))[0], mean


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"data__ignored": "negative", "augment": {"flip": 0.3}},
        {"loss": {"name": "bce", "class_weights": "balanced", "smoothing": 0.1}},
        {"data__eval": None, "data__folds": 3, "data__fold": 1},
    ],
    ids=str,
)
def test_the_head_is_where_the_loss_of_the_run_and_the_penalty_are_least(
    overrides: dict[str, object], solved_config: MakeConfig, tmp_path: Path
) -> None:
    config = solved_config(optim={"name": "lbfgs", "l2": 0.5}, **overrides)
    assert train(config, tmp_path) == 0
    facts = json.loads((tmp_path / "result.json").read_text())["solved"]
    found, at_zero, loss = gradient(tmp_path, config, 0.5)
    assert found < 1e-4 * at_zero, "up to the float32 of the head and the loss"
    assert facts["loss"] == pytest.approx(loss, rel=1e-4)
    assert facts["l2"] == 0.5
    assert "cross_validation" not in facts


def test_balanced_sampling_weighs_the_images(solved_config: MakeConfig, tmp_path: Path) -> None:
    biases = []
    for balance in ("none", "class"):
        config = solved_config(optim={"name": "lbfgs", "l2": 1e9}, data__balance=balance)
        assert train(config, tmp_path / balance) == 0
        biases.append(final_state(tmp_path / balance)["model/head.fc.bias"].sigmoid().numpy())
    labels_NC = np.asarray(open_index(Path(config.data.train)).labels_NC)
    positive_NC = labels_NC == 1
    drawn_N = (np.column_stack([positive_NC, ~positive_NC.any(1)]) / np.maximum(
        np.append(positive_NC.sum(0), (~positive_NC.any(1)).sum()), 1)).sum(1)  # fmt: skip
    for found_C, weight_N in zip(biases, (np.ones(len(labels_NC)), drawn_N), strict=True):
        share_C = weight_N @ positive_NC / (weight_N @ (labels_NC >= 0))
        assert found_C == pytest.approx(share_C, abs=1e-4)


def test_auto_says_what_it_tried_and_takes_the_least(clean_run: Path) -> None:
    facts = json.loads((clean_run / "result.json").read_text())["solved"]
    tried = facts["cross_validation"]["tried"]
    assert len(tried) > 2
    assert facts["l2"] == min(tried, key=lambda pair: pair[1])[0]
    assert facts["gradient"] < 1e-6
    result = json.loads((clean_run / "result.json").read_text())
    assert (result["steps"], result["last"]["epoch"]) == (1, 1.0)
    assert result["best"]["eval"]["mAP"] == result["last"]["eval"]["mAP"]


@pytest.mark.parametrize("looks", [0, 3, 40])
def test_stopped_while_it_is_solved_and_started_again_is_bit_equal(
    looks: int, clean_run: Path, solved_config: MakeConfig, tmp_path: Path, signal_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    signal_after(looks)
    assert train(solved_config(), tmp_path) == STOPPED
    assert not (tmp_path / "result.json").exists()
    assert read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[0]).meta["step"] == 0
    monkeypatch.undo()
    assert train(solved_config(), tmp_path) == 0
    assert_same_run(tmp_path, clean_run)


def test_cut_off_after_it_was_solved_goes_on_to_the_scores(
    clean_run: Path, solved_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.finish", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(solved_config(), tmp_path)
    assert read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[0]).meta["step"] == 1
    with monkeypatch.context() as patch:
        patch.setattr(solve, "_found", lambda run: pytest.fail("solved again"))
        assert train(solved_config(), tmp_path) == 0
    assert_same_run(tmp_path, clean_run)
    facts = [json.loads((run / "result.json").read_text())["solved"] for run in (tmp_path, clean_run)]
    assert facts[0] == facts[1]


def test_all_that_follows_a_training_works(clean_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    run, image = str(clean_run), str(open_index(tiny_data / "test").path(0))
    assert main(["eval", run, "--json", str(tmp_path / "eval.json")]) == 0
    scores = json.loads((clean_run / "result.json").read_text())["best"]["eval"]
    assert json.loads((tmp_path / "eval.json").read_text())["AP"] == scores["AP"]
    assert main(["calibrate", run]) == 0
    assert main(["predict", run, image, "--out", str(tmp_path / "labels.json")]) == 0
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0
    assert main(["pack", run, "--out", str(tmp_path / "model.zip")]) == 0
    assert main(["export", run, "--format", "torch", "--out", str(tmp_path / "model.pt2")]) == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"model__frozen": False}, "model.frozen=true"),
        ({"model__head": {"name": "csra"}}, "model.head.name: csra"),
        ({"model__head": {"name": "linear", "bias": False}}, "model.head.bias"),
        ({"model__head": {"name": "linear", "dropout": 0.2}}, "model.head.dropout: found 0.2"),
        ({"loss": {"name": "asl"}}, "loss.name: asl"),
        ({"method": {"name": "masksup"}}, "method.name: masksup"),
        ({"augment": {"crop": "random_resized"}}, "augment.crop"),
        ({"parallel": {"engine": "deepspeed"}}, "parallel.engine: deepspeed"),
        ({"ema": {"decay": 0.9}}, "ema.decay"),
        ({"optim": {"name": "sgd", "l2": 1.0}}, "optim.l2: set, but optim.name is sgd"),
        ({"optim": {"name": "lbfgs", "l2": 0}}, "optim.l2: found 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_solved_is_one_line(overrides: dict[str, object], said: str, solved_config: MakeConfig) -> None:
    with pytest.raises(UserError) as told:
        solved_config(**overrides)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_too_few_images_to_cross_validate(solved_config: MakeConfig, tmp_path: Path) -> None:
    for content in prepare_shapes(tmp_path / "root", train=3, val=2, test=1, size=32, seed=1):
        write_index(tmp_path / content.split, content)
    places = {"data__train": str(tmp_path / "train"), "data__eval": str(tmp_path / "val")}
    with pytest.raises(UserError, match=r"optim\.l2: auto .* 3 images; expected at least 5, or a number"):
        train(solved_config(**places), tmp_path / "run")
    assert train(solved_config(**places, optim={"name": "lbfgs", "l2": 1.0}), tmp_path / "given") == 0


def test_settings_without_effect_are_named(
    solved_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(to_yaml(solved_config(optim={"name": "lbfgs", "l2": 1.0})))
    assert (
        main(["train", str(config), "optim.lr=0.5", "stop.patience_epochs=1", "--run-dir", str(tmp_path / "run")]) == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "these have no effect: epochs, batch.micro, stop.patience_epochs, optim.lr" in said
