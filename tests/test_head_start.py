"""A new head begins at the shares of its classes, and batch norm may keep the statistics of its weights."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from compare import final_state
from networks import build_network
from pretrained import BACKBONE, write_weights

from masksup.config.auto import following, read_recorded, resolved
from masksup.config.components import LOSSES
from masksup.config.load import dump, load_config, to_yaml
from masksup.config.schema import Config
from masksup.data.loader import train_loader
from masksup.data.split import make_plan, open_source, train_dataset
from masksup.engine.build import new_method, new_network
from masksup.engine.feature_batches import feature_batches
from masksup.engine.features import FeatureFolder
from masksup.engine.head_start import best_constant, start_at_prior
from masksup.engine.state import same_head
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.models.backbones import build_backbone
from masksup.models.weights import load_weights
from masksup.runtime.run_folder import as_in_folder, refuse_other_config
from masksup.smoke.shrink import shrunk
from masksup.training.train import train
from tools.same_run import differences

MakeConfig = Callable[..., Config]
HEADS = ["linear", "attentive_probe", "ml_decoder", "query2label"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "backbone.pth")


@pytest.mark.parametrize("ignored", ["ignore", "negative", "positive"])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("name", "head"), [("bce", head) for head in HEADS] + [("asl", "linear"), ("focal", "linear")])
def test_the_mean_logit_is_the_constant_that_the_loss_prefers(
    name: str, head: str, balanced: bool, ignored: str, tiny_config: MakeConfig, weights: Path
) -> None:
    loss = {"name": name, "class_weights": "balanced" if balanced else "none", "max_weight": 1000.0}
    config = tiny_config(model={**MODEL, "weights": str(weights), "head": {"name": head}}, loss=loss,
                         data__ignored=ignored)  # fmt: skip
    train_part = open_source(config.data, config.seed).train
    classes = len(train_part.index.classes)
    method = new_method(config, new_network(config, classes), classes, train_part)
    start_at_prior(config, method, train_part)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    logits_BC = method.train().network(images)

    labels_NC = train_part.index.labels_NC.astype(np.int64)
    if ignored != "ignore":
        labels_NC[labels_NC == -1] = int(ignored == "positive")
    # The loss itself, minimised over one logit a class: its gradient there vanishes, but for the smoothing by one.
    logit_C = logits_BC.mean(0).double().detach().requires_grad_()
    both = torch.tensor(np.concatenate([labels_NC, np.ones_like(labels_NC[:1]), np.zeros_like(labels_NC[:1])]))
    method.loss.double()(logit_C.expand(len(both), -1), both.to(torch.int8)).backward()
    assert logit_C.grad is not None
    assert logit_C.grad.abs().max() < 1e-6
    assert torch.allclose(logits_BC, logits_BC[:1].expand_as(logits_BC), atol=1e-5), "no image differs yet"
    if not balanced:
        assert logits_BC.std(1).min() > 0.1, "but the classes do"


COUNTS = torch.tensor([0.0, 1.0, 7.0, 100.0, 199.0, 200.0], dtype=torch.float64)


def constant_of(name: str, **options: Any) -> torch.Tensor:
    return best_constant(LOSSES.resolve(name)(COUNTS, 200 - COUNTS, **options), COUNTS, 200 - COUNTS)


def test_the_constant_of_binary_cross_entropy_is_the_log_odds() -> None:
    log_odds_C = ((COUNTS + 1) / (201 - COUNTS)).log()
    for same in (constant_of("bce"), constant_of("focal", gamma=0.0, alpha=None),
                 constant_of("asl", gamma_neg=0.0, gamma_pos=0.0, clip=0.0)):  # fmt: skip
        torch.testing.assert_close(same, log_odds_C, rtol=0, atol=1e-12)
    balanced_C = constant_of("bce", class_weights="balanced", max_weight=1000.0)
    assert balanced_C[1:5].abs().max() < 0.75, "half, but for the label of each kind that is added"


def test_asl_begins_above_its_margin_and_within_the_range_of_the_log_odds() -> None:
    """Below the margin of 0.05 it gives absences no gradient, and log-odds would begin most classes there."""
    for constant_C in (constant_of("asl"), constant_of("asl", focal_gradient=True)):
        assert constant_C.sigmoid().min() > 0.1
        assert bool((constant_C.diff() >= 0).all()), "a frequent class begins higher"
        assert float(constant_C[-1]) <= math.log(202) + 1e-9
    assert bool((constant_of("bce").sigmoid()[:2] < 0.05).all())


@pytest.mark.parametrize(
    ("weights_of", "settings"),
    [
        ("file", {"batchnorm": "batch"}),
        ("file", {"batchnorm": "frozen", "head": {"name": "csra", "heads": 4, "bias": True}}),
        ("file", {"frozen": True}),
        ("none", {"batchnorm": "batch"}),
    ],
)
def test_csra_has_the_log_odds_in_the_mean_over_the_first_batch(
    weights_of: str, settings: dict[str, Any], tiny_config: MakeConfig, weights: Path, tmp_path: Path
) -> None:
    """And the weights that it would have had, which are not 0."""
    model = {**MODEL, "head": {"name": "csra"}, "head_start": "prior",
             "weights": str(weights) if weights_of == "file" else "none"}  # fmt: skip
    config = tiny_config(model={**model, **settings}, data__folds=3, data__eval=None)
    train_part = open_source(config.data, config.seed).train
    classes = len(train_part.index.classes)
    networks = [new_network(with_model(config, head_start=start), classes) for start in ("prior", "random")]
    for network in networks:
        load_weights(network.backbone, config.model.weights)
    ours, random = networks
    ours.backbone.frozen_batch_norm = config.model.batchnorm == "frozen"
    method = new_method(config, ours, classes, train_part)
    start_at_prior(config, method.train(), train_part)
    state = ours.state_dict()
    bias_C = state.pop("head.class_bias")
    assert bias_C.shape == (classes,)
    assert state.keys() == random.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in random.state_dict().items())

    plan = make_plan(config, train_part)
    if config.model.frozen:
        cpu = torch.device("cpu")
        features = FeatureFolder(tmp_path, ours, config, cpu, torch.float32).features(train_part, True, str)
        batches = next(feature_batches(features, train_part, plan, 0, config))
        logits_BC = torch.cat([ours.head(batch["features"]) for batch in batches])
    else:
        batches = next(train_loader(train_dataset(config, train_part, plan), 0, 0))
        logits_BC = torch.cat([ours(batch["image"]) for batch in batches])
    assert len(batches) == 2
    present, absent = train_part.count(1), train_part.count(0)
    expected_C = torch.tensor(np.log((present + 1) / (absent + 1)))
    torch.testing.assert_close(logits_BC.double().mean(0), expected_C, atol=1e-5, rtol=0)
    assert logits_BC.std(0).min() > 1e-3, "images differ"


def test_a_head_is_taken_over_where_nothing_of_it_is_lost(tiny_config: MakeConfig) -> None:
    def state(start: str, **options: Any) -> dict[str, torch.Tensor]:
        return new_network(tiny_config(model={**MODEL, "head_start": start, "head": options}), 12).state_dict()

    prior, random = (state(start, name="csra") for start in ("prior", "random"))
    assert same_head(prior, prior)
    assert same_head(prior, random), "whose bias is 0"
    assert not same_head(random, prior), "whose bias would be lost"
    assert not same_head(state("random", name="linear", bias=False), state("random", name="linear"))
    assert not same_head(state("random", name="csra", heads=2), random)


MODEL: dict[str, Any] = {"backbone": BACKBONE, "size": 32}


def with_model(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})


def stepped(config: Config, run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    assert train(config, run) == 0
    return final_state(run), yaml.safe_load((run / "config.yaml").read_text())["model"]


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_scales(
    tiny_config: MakeConfig, weights: Path, tmp_path: Path
) -> None:
    """Their moving average too, with two views an image and activations that are computed again."""
    config = tiny_config(
        model={**MODEL, "weights": str(weights), "grad_checkpointing": True}, method={"name": "masksup", "bank": 8},
        optim={"name": "sgd", "lr": 0.1}, epochs=0.75, data__eval=None,
    )  # fmt: skip
    state, said = stepped(config, tmp_path / "run")
    assert (said["head_start"], said["batchnorm"]) == ("prior", "frozen"), "what auto chose"
    begun = torch.load(weights, weights_only=True)
    for name, before in begun.items():
        after = state[f"model/backbone.model.{name}"]
        if "running_" in name or "num_batches" in name:
            assert torch.equal(after, before), name
            assert torch.equal(state.get(f"ema/backbone.model.{name}", before), before), name
        elif "bn" in name:
            assert not torch.equal(after, before), name
    other, _ = stepped(with_model(config, batchnorm="batch"), tmp_path / "batch")
    assert any(not torch.equal(other[f"model/backbone.model.{n}"], v) for n, v in begun.items() if "running_" in n)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_every_batch_norm_of_timm_is_frozen(name: str) -> None:
    """Those that are fused with their activation, too, and after any call of train()."""
    network = build_network(name, 64, "linear", {}, 5)
    network.backbone.frozen_batch_norm = True
    for call in (network.train, network.backbone.train, lambda: network.eval() and network.train()):
        call()
        kept = {key: value.clone() for key, value in network.state_dict().items()}
        network(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
        changed = [key for key, value in network.state_dict().items() if not torch.equal(value, kept[key])]
        assert not changed
        assert network.head.training
    network.backbone.frozen_batch_norm = False
    network.train()
    network(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    moved = any(not torch.equal(value, kept[key]) for key, value in network.state_dict().items())
    assert moved == bool(network.backbone.batch_norms) == (name in ("test_resnet", "test_efficientnet"))


def test_auto_follows_the_folder_and_a_value_is_refused(
    tiny_config: MakeConfig, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is missing in a folder of an older version; what that did goes on, and is not called another run."""
    auto = tiny_config(model={**MODEL, "weights": str(weights)})
    old = with_model(auto, head_start="random", batchnorm="batch")
    assert train(old, tmp_path / "clean") == 0
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM")
        assert train(old, tmp_path / "run") == STOPPED
    file = tmp_path / "run" / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    del tree["model"]["head_start"], tree["model"]["batchnorm"]
    file.write_text(yaml.safe_dump(tree))
    prior = with_model(auto, head_start="prior")
    with pytest.raises(UserError, match=r"another configuration \(model.head_start: random -> prior\)"):
        train(prior, tmp_path / "run")
    assert train(auto, tmp_path / "run") == 0
    missing = {"config.yaml model.head_start", "config.yaml model.batchnorm"}
    assert {line.partition(":")[0] for line in differences(tmp_path / "run", tmp_path / "clean")} == missing


def test_a_folder_that_was_submitted_begins_and_keeps_what_it_chose(
    tiny_config: MakeConfig, weights: Path, tmp_path: Path
) -> None:
    """The launcher makes the folder before anything has chosen, and submits it again later."""
    auto, run = tiny_config(model={**MODEL, "weights": str(weights)}, epochs=1), tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(auto))
    assert train(auto, run) == 0
    refuse_other_config(run, auto)
    again = as_in_folder(run, auto)
    assert (again.model.head_start, again.model.batchnorm) == ("prior", "frozen")
    with pytest.raises(UserError, match=r"model\.batchnorm: frozen -> batch"):
        refuse_other_config(run, with_model(auto, batchnorm="batch"))


def test_what_auto_becomes(tiny_config: MakeConfig, weights: Path, tmp_path: Path) -> None:
    def chosen(has_batch_norm: bool = True, **changes: Any) -> tuple[str, str]:
        model = resolved(tiny_config(**changes), has_batch_norm).model
        return model.head_start, model.batchnorm

    begun = {**MODEL, "weights": str(weights)}
    assert chosen(model=MODEL) == ("random", "batch"), "from random weights"
    assert chosen(model=begun) == ("prior", "frozen")
    assert chosen(model=begun, has_batch_norm=False) == ("prior", "batch")
    assert chosen(model=begun, batch={"global": 64}) == ("prior", "batch")
    assert chosen(model=begun, batch={"global": 64, "micro": 32}) == ("prior", "frozen")
    for head in ({"name": "csi"}, {"name": "linear", "bias": False}):
        assert chosen(model={**begun, "head": head})[0] == "random"
    for method in ({"name": "mcar"}, {"name": "puzzle"}, {"name": "masksup", "base": {"name": "mcar"}}):
        assert chosen(model=begun, method=method)[0] == "random"
    assert chosen(model=begun, method={"name": "masksup"})[0] == "prior"
    assert chosen(model={**begun, "head": {"name": "csra"}}) == ("prior", "frozen")

    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(tiny_config(model=begun)))
    assert following(tiny_config(model=begun), read_recorded(file)).model.head_start == "auto", "not started yet"


@pytest.mark.parametrize(
    ("model", "method", "words"),
    [
        ({"head": {"name": "csi"}, "head_start": "prior"}, {}, "found prior, but head csi needs weights"),
        ({"head": {"name": "linear", "bias": False}, "head_start": "prior"}, {}, "has no bias"),
        ({"head_start": "prior"}, {"name": "mcar"}, "found prior, but method mcar cuts by the maps"),
        ({"batchnorm": "frozen"}, {}, "found frozen, but model.weights is none"),
        ({"batchnorm": "froze"}, {}, "batchnorm"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    model: dict[str, Any], method: dict[str, Any], words: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    tree = dump(tiny_config())
    tree["model"] |= model
    tree["method"] = {"name": "baseline"} | method
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=words) as error:
        load_config(file)
    assert "\n" not in str(error.value)


def test_frozen_without_a_batch_norm_is_one_line(tiny_config: MakeConfig, tmp_path: Path) -> None:
    file = tmp_path / "vit.pth"
    torch.save(build_backbone("test_vit", 32, grad_checkpointing=False, options={}).model.state_dict(), file)
    model = {"backbone": "test_vit", "size": 32, "weights": str(file), "batchnorm": "frozen"}
    with pytest.raises(UserError, match=r"model\.batchnorm: found frozen, but test_vit has no batch norm"):
        train(tiny_config(model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("asked", "said"), [("batch", 1), ("auto", 0)])
def test_batch_asked_for_without_a_batch_norm_is_said_once(
    asked: str, said: int, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(model={"backbone": "test_vit", "size": 32, "batchnorm": asked})
    for _ in range(2):
        assert train(config, tmp_path / "run") == 0
    line = "model.batchnorm: batch has no effect, because test_vit has no batch norm"
    assert " ".join(capsys.readouterr().out.split()).count(line) == said


def test_smoke_takes_a_configuration_with_frozen_statistics(
    tiny_config: MakeConfig, weights: Path, tmp_path: Path
) -> None:
    """Its stand-in starts from random weights."""
    file = tmp_path / "a.yaml"
    model = {**MODEL, "weights": str(weights), "batchnorm": "frozen", "head_start": "prior"}
    file.write_text(to_yaml(tiny_config(model=model)))
    assert shrunk(file, tmp_path).model.head_start == "prior"


@pytest.mark.parametrize(("head", "start"), [("linear", "prior"), ("csra", "random")])
def test_a_trained_head_is_not_begun_anew(
    head: str, start: str, tiny_config: MakeConfig, weights: Path, tmp_path: Path
) -> None:
    """Nor one of an older version, which had no bias of classes."""
    model = {**MODEL, "head": {"name": head}}
    short = {"ema__decay": 0.0, "epochs": 0.75, "data__eval": None}
    first, _ = stepped(
        tiny_config(model={**model, "weights": str(weights), "head_start": start}, **short), tmp_path / "first"
    )
    still = {"optim": {"name": "sgd", "lr": 1e-12}, **short}
    second, said = stepped(
        tiny_config(model={**model, "weights": str(tmp_path / "first")}, **still), tmp_path / "again"
    )
    assert said["head_start"] == "prior"
    for name in (name for name in first if name.startswith("model/head.")):
        assert torch.allclose(second[name], first[name], atol=1e-6)
        assert first[name].abs().max() > 1e-6
    if head == "csra":
        assert second["model/head.class_bias"].abs().max() < 1e-9
