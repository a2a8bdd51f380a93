"""The JSON Schema of the files: it takes what the readers take, and refuses what they refuse."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from launch.cluster.resources import joined
from launch.sweeps.settings import SweepFile
from masksup.cli import main
from masksup.commands.schema import KINDS, schema_of
from masksup.config.components import HEADS, LOSSES, METHODS
from masksup.config.load import load_config
from masksup.config.yaml_text import parse_yaml, read_yaml
from masksup.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "configs").glob("*/*.yaml"))
BASE = "data: {train: a}\nmodel: {backbone: test_resnet}\n"


@cache
def checker(kind: str) -> Draft202012Validator:
    schema = schema_of(kind)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def kind_of(file: Path) -> str:
    return "sweep" if file.parent.name == "sweeps" else "run"


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_file_of_configs_fits_and_names_its_schema(file: Path) -> None:
    errors = [error.message for error in checker(kind_of(file)).iter_errors(read_yaml(file))]
    assert errors == []
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema=../schema/{kind_of(file)}.json"


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_beside_the_configurations_is_the_newest(kind: str) -> None:
    """`masksup schema --out configs/schema` writes it."""
    kept = json.loads((ROOT / "configs" / "schema" / f"{kind}.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(schema_of(kind)))


WRONG = [
    "trian: {}", "optim: {lrr: 1}", "optim: {lr: fast}", "optim: {lr: 0}", "optim: {name: rmsprop}",
    "model: {backbone: a, size: 0}", "model: {backbone: a, head: {name: csra, groups: 3}}",
    "model: {backbone: a, head: {name: cross}}", "loss: {name: bce, gamma_neg: 4}", "method: {name: mcar, top: many}",
    "method: {name: masksup, base: {name: mcar, levels: 2}}", "batch: {micro: all}", "data: {train: a, folds: -1}",
    "augment: {scale: [0.5]}", "eval: {masked: [middle]}", "model: {backbone: a, frozen: 3}", "epochs: null",
]  # fmt: skip
RIGHT = [
    "epochs: 5", "optim: {lr: 1e-4}", "model: {backbone: a, head: {name: csra, heads: 6}}", "batch: {micro: auto}",
    "loss: {name: asl, gamma_neg: 4}", "model: {backbone: a, lora: {layers: [qkv]}}", "augment: {scale: [0.5, 1]}",
    "method: {name: masksup, base: {name: mcar, top: 2}}", "data: {train: a, eval: null}", "log: {images: 0}",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG + RIGHT)
def test_it_judges_a_run_as_the_reader_does(text: str, tmp_path: Path) -> None:
    tree = {**parse_yaml(BASE), **parse_yaml(text)}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    try:
        load_config(tmp_path / "run.yaml")
        read = True
    except UserError:
        read = False
    assert read == (text in RIGHT)
    assert checker("run").is_valid(tree) == read


@pytest.mark.parametrize("registry", [HEADS, LOSSES, METHODS], ids=lambda registry: registry.kind)
def test_each_part_has_its_own_options(registry: Any) -> None:
    section = {"head": lambda part: {"model": {"head": part}}}.get(registry.kind, lambda p: {registry.kind: p})
    for name in registry.entries:
        defaults = registry.options(name)().model_dump(mode="json")
        assert checker("run").is_valid(section({"name": name, **defaults}))
        assert not checker("run").is_valid(section({"name": name, "none_has_this": 1}))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("base: a.yaml\ngrid: {optim.lr: [0.1, 0.2], model.head.heads: [1, 6]}", True),
        ("base: a.yaml\nlist: [{name: wide, batch.global: 64}]\nrepeat: [1, 2]\nresources: {time: 30}", True),
        ("base: a.yaml\nset: {method.base.top: 2}", True),
        ("base: a.yaml\nset: {optim.lrr: 0.1}", False),
        ("base: a.yaml\ngrid: {optim.lr: 0.1}", False),
        ("base: a.yaml\ngrid: {optim.lr: [fast]}", False),
        ("base: a.yaml\nrandom: {count: 2, keys: {optim.rate: {log: [1, 2]}}}", False),
        ("base: a.yaml\nresources: {partitions: gpu}", False),
        ("grid: {}", False),
    ],
)
def test_it_judges_a_sweep(text: str, fits: bool) -> None:
    assert checker("sweep").is_valid(parse_yaml(text)) == fits
    if fits:
        SweepFile.model_validate(parse_yaml(text))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("nodes: 1-4\ngpus_per_node: a100:2\ntime: 30\nsbatch: {exclusive: true}", True),
        ("account: 1234\nsetup: [module load cuda]\nenvironment: {A: 1}", True),
        ("partitions: gpu", False),
        ("cpus_per_rank: 0", False),
        ("setup: module load cuda", False),
    ],
)
def test_it_judges_a_site_as_the_reader_does(text: str, fits: bool) -> None:
    assert checker("site").is_valid(parse_yaml(text)) == fits
    if fits:
        joined({"site": parse_yaml(text)})
    else:
        with pytest.raises(UserError):
            joined({"site": parse_yaml(text)})


def test_the_command_prints_one_and_writes_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "site"]) == 0
    assert json.loads(capsys.readouterr().out) == schema_of("site")
    assert main(["schema", "--out", str(tmp_path / "new")]) == 0
    assert f"$schema={tmp_path / 'new' / 'run.json'}" in capsys.readouterr().out
    assert {file.stem for file in (tmp_path / "new").iterdir()} == set(KINDS)
