"""A run that adapts its backbone by LoRA: what it saves, how it goes on, and the merged weights that readers have."""

import copy
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from compare import assert_same_run
from safetensors.torch import load_file
from test_train import stop_after
from torch import Tensor

from masksup.cli import main
from masksup.config.load import load_config, to_yaml
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.engine.build import new_network
from masksup.engine.ema import copy_values
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.export.check import outputs_of
from masksup.export.trace import Deployed
from masksup.export.write import session_run
from masksup.inference.model_file import open_exported
from masksup.models.backbones import build_backbone
from masksup.models.lora import add_lora
from masksup.runtime.checkpoint import TENSORS, list_checkpoints, read_checkpoint
from masksup.runtime.run_folder import read_run_config
from masksup.saved.base_file import BASE
from masksup.saved.open import open_trained
from masksup.smoke.shrink import shrunk
from masksup.training.train import train

MakeConfig = Callable[..., Config]
SHALLOW = {"depth": 2}
IMAGES = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.save(build_backbone("test_vit", 32, grad_checkpointing=False, options=SHALLOW).model.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def make(tiny_config: MakeConfig, weights: Path) -> MakeConfig:
    """24 steps with a moving average, dropout and stochastic depth."""

    def config(**overrides: Any) -> Config:
        model = {
            "backbone": "test_vit", "size": 32, "weights": str(weights), "head": {"name": "linear", "dropout": 0.2},
            "lora": {"rank": 4, "alpha": 8}, "backbone_options": {**SHALLOW, "drop_path_rate": 0.2},
        }  # fmt: skip
        return tiny_config(**{"epochs": 8, "model": model, "optim__lr": 0.01, **overrides})

    return config


@pytest.fixture(scope="module")
def run(make: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    torch.set_num_threads(1)
    assert train(make(), folder) == 0
    return folder


@pytest.fixture(scope="module")
def cut(make: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "cut"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 9)
        assert train(make(), folder) == STOPPED
    return folder


def newest(run: Path) -> Path:
    return list_checkpoints(run / "checkpoints")[0]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def logits(path: Path, which: Any = "auto") -> Tensor:
    with torch.no_grad():
        return open_trained(path, which).method.predict(IMAGES)


def test_a_run_that_was_cut_off_ends_bit_equal(run: Path, cut: Path, make: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(cut, folder, symlinks=True)
    assert train(make(), folder) == 0
    assert_same_run(folder, run)
    assert (folder / BASE).stat().st_mtime_ns == (cut / BASE).stat().st_mtime_ns, "written once"


def test_a_checkpoint_holds_what_is_added_and_the_run_folder_the_rest(run: Path, weights: Path) -> None:
    keys = load_file(newest(run) / TENSORS).keys()
    parts = {key.partition("/")[0] for key in keys}
    assert parts == {"model", "optim", "ema"}
    added = {key.rpartition("/")[2] for key in keys}
    assert {name for name in added if name.startswith("head.")} == {"head.fc.weight", "head.fc.bias"}
    assert all(name.endswith((".lora_a", ".lora_b")) for name in added if name.startswith("backbone."))
    for part in ("model", "ema", "optim/exp_avg"):
        assert {f"{part}/{name}" for name in added} <= keys

    assert read_checkpoint(newest(run)).meta["at"]["base_sha256"] == sha256(run / BASE)
    base, began = load_file(run / BASE), torch.load(weights, weights_only=True)
    assert base.keys() == began.keys()
    assert all(torch.equal(base[name], began[name]) for name in base)


@pytest.mark.parametrize("which", ["live", "ema"])
def test_merged_is_applied_after_24_steps(which: Any, run: Path) -> None:
    state, config = read_checkpoint(newest(run)), read_run_config(run)
    assert state.meta["step"] >= 20
    trained = open_trained(newest(run), which)
    network = new_network(config, len(trained.classes))
    network.backbone.model.load_state_dict(load_file(run / BASE))
    before = copy.deepcopy(network).eval()
    add_lora(network.backbone, config.model.lora, config.seed)
    copy_values(state.part("model") | (state.part("ema") if which == "ema" else {}), network.kept_state())
    before.head = network.head
    with torch.no_grad():
        applied, plain, found = network.eval()(IMAGES), before.eval()(IMAGES), trained.network(IMAGES)
    assert (found - applied).abs().max() < 1e-5
    assert (found - plain).abs().max() > 1e-2


def test_the_scores_of_the_run_are_those_of_eval(run: Path, tmp_path: Path) -> None:
    import json

    assert main(["eval", str(run), "--json", str(tmp_path / "scores.json")]) == 0
    result = json.loads((run / "result.json").read_text())["best"]["eval"]
    assert json.loads((tmp_path / "scores.json").read_text())["AP"] == result["AP"]


def test_archive_and_export_hold_the_merged_weights(run: Path, tmp_path: Path) -> None:
    archive, exported = tmp_path / "run.zip", tmp_path / "run.onnx"
    assert main(["pack", str(run), "--out", str(archive)]) == 0
    assert main(["export", str(run), "--out", str(exported)]) == 0
    shutil.move(run / BASE, tmp_path / "away")
    try:
        found = logits(archive)
    finally:
        shutil.move(tmp_path / "away", run / BASE)
    assert torch.equal(found, logits(run))
    assert not any("lora" in name for name in open_trained(archive).network.state_dict())
    session = open_exported(exported).session
    theirs = outputs_of(session_run(session, Deployed(open_trained(run).method).eval()), IMAGES)[0]
    assert (torch.as_tensor(theirs) - found).abs().max() < 1e-4


def test_a_run_begins_with_the_merged_weights_of_another(run: Path, make: MakeConfig, tmp_path: Path) -> None:
    merged = open_trained(run).network.state_dict()
    for name, rank in (("whole", 0), ("again", 2)):
        config = make(epochs=0.05, schedule={}, model__weights=str(run), model__lora={"rank": rank}, data__eval=None)
        assert train(config, tmp_path / name) == 0
    base = load_file(tmp_path / "again" / BASE)
    assert all(torch.equal(value, merged[f"backbone.model.{name}"]) for name, value in base.items())
    assert not (tmp_path / "whole" / BASE).exists()
    assert torch.allclose(logits(tmp_path / "again"), logits(run), atol=1), "with its head"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


READERS = {
    "eval": ["eval", "RUN"],
    "predict": ["predict", "RUN", "PHOTO"],
    "export": ["export", "RUN", "--out", "OUT.onnx"],
    "pack": ["pack", "RUN", "--out", "OUT.zip"],
    "calibrate": ["calibrate", "RUN"],
    "report": ["report", "RUN", "--out", "OUT.html"],
    "checkpoint": ["eval", "RUN/checkpoints/latest"],
    "resume": ["train", "YAML", "--run-dir", "RUN"],
    "weights": ["train", "YAML", "model.weights=RUN", "--run-dir", "NEW"],
}


@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["one bit", "gone"])
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_takes_a_base_that_is_not_the_one_that_was_saved(
    reader: str, damage: Callable[[Path], None], cut: Path, make: MakeConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    shutil.copytree(cut, run, symlinks=True)
    index = open_index(Path(make().data.train))
    damage(run / BASE)
    (tmp_path / "run.yaml").write_text(to_yaml(make()))
    words = {"YAML": str(tmp_path / "run.yaml"), "PHOTO": str(index.path(0)), "OUT": str(tmp_path / "out")}
    words |= {"RUN": str(run), "NEW": str(tmp_path / "new")}
    command = []
    for argument in READERS[reader]:
        for word, meaning in words.items():
            argument = argument.replace(word, meaning)
        command.append(argument)
    saved = sha256(newest(run) / TENSORS)
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if BASE in line]) == 1, said
    assert "Traceback" not in "".join(said)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("out", "new"))]
    assert sha256(newest(run) / TENSORS) == saved


def test_a_folder_that_was_moved_is_read_and_goes_on(cut: Path, make: MakeConfig, tmp_path: Path) -> None:
    shutil.copytree(cut, tmp_path / "moved", symlinks=True)
    assert torch.equal(logits(tmp_path / "moved"), logits(cut))
    assert torch.equal(logits(tmp_path / "moved" / "checkpoints" / "latest"), logits(newest(cut)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__frozen": True}, "model.lora.rank: found 4, but model.frozen trains only the head"),
        ({"parallel": {"engine": "deepspeed", "zero_stage": 3}}, "model.lora.rank: found 4, but parallel.zero_stage"),
        ({"model__lora": {"rank": 4, "layers": []}}, "model.lora.layers: "),
        ({"model__lora": {"rank": -1}}, "model.lora.rank: found -1"),
        ({"model__lora": {"rnk": 1}}, "model.lora.rnk: unknown key; did you mean 'rank'?"),
        ({"method": {"name": "oass", "patches": "teacher"},
          "model": {"backbone": "test_resnet", "size": 64, "lora": {"rank": 4}}},
         "model.lora.rank: found 4, but method oass keeps a copy of the weights"),
        ({"model": {"backbone": "mobilevit_xxs", "size": 64, "lora": {"rank": 2}, "batchnorm": "batch"}},
         "model.batchnorm: found batch, but model.lora leaves the backbone as it is"),
        ({"model": {"backbone": "test_resnet", "size": 32, "lora": {"rank": 2}}}, "has no linear layers to adapt"),
        ({"model__lora": {"rank": 100}}, "model.lora.rank: found 100, but blocks.0.attn.qkv"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line_and_writes_nothing(
    changes: dict[str, Any], message: str, make: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        train(make(**changes), tmp_path / "run")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_auto_freezes_batch_norm_whatever_the_batch(make: MakeConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "backbone.pth"
    torch.save(build_backbone("mobilevit_xxs", 64, grad_checkpointing=False, options={}).model.state_dict(), file)
    model = {"backbone": "mobilevit_xxs", "size": 64, "lora": {"rank": 2}, "weights": str(file)}
    config = make(model=model, epochs=0.05, schedule={}, data__eval=None, batch={"global": 64})
    assert train(config, tmp_path / "run") == 0
    assert read_run_config(tmp_path / "run").model.batchnorm == "frozen"
    state, began = open_trained(tmp_path / "run").network.state_dict(), torch.load(file, weights_only=True)
    statistics = [name for name in began if "running_" in name]
    assert statistics
    assert all(torch.equal(state[f"backbone.model.{name}"], began[name]) for name in statistics)


def test_the_settings_are_typed_and_told(make: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(make()))
    assert yaml.safe_load(file.read_text())["model"]["lora"] == {"rank": 4, "alpha": 8.0, "layers": "all"}
    config, _ = load_config(file, ["model.lora.layers=[qkv, proj]"])
    assert config.model.lora.layers == ("qkv", "proj")
    assert config.model.lora.scale == 2
    small = shrunk(file, tmp_path)
    assert small.model.lora.rank == 4
