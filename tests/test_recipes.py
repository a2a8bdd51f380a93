"""Every recipe in configs/: it validates, says where its figure comes from, fits its full-size network, and runs small.

The small run is that of `masksup smoke`. In `make test` so many run that each family, network, method and head is
among them, all in `make nightly`.
"""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same_run

from masksup.cli import main
from masksup.config.load import load_config
from masksup.config.schema import Config
from masksup.config.yaml_text import read_yaml
from masksup.data.sampler import Plan
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index
from masksup.engine.build import new_method, new_network
from masksup.engine.schedule import rate_factor
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.models.backbones import Backbone, build_backbone
from masksup.runtime.metrics_rows import read_rows
from masksup.smoke.shrink import BATCH, shrunk, stand_in
from masksup.training.train import train

ROOT = Path(__file__).resolve().parents[1]
BASES = sorted((ROOT / "configs").glob("*/base*.yaml"))
RECIPES = [
    file
    for file in sorted((ROOT / "configs").glob("*/*.yaml"))
    if file.parent.name not in ("examples", "sweeps") and file not in BASES
]
# Settings of this project for one's own images; the others are those of an original.
STARTS = [file for file in RECIPES if file.stem.startswith("mine_")]
CLASSES = {"voc2007": 20, "voc2012": 20, "coco2014": 80, "wider": 14, "mine": 5}


def label(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


every_recipe = pytest.mark.parametrize("file", RECIPES, ids=label)


@cache
def settings(file: Path) -> Config:
    return load_config(file)[0]


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def remarks(file: Path) -> str:
    """The comment at the head of a file, as one line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.removeprefix("#").strip() for line in head)


def published(file: Path) -> str:
    """The figure of the head comment: "mAP 94.7", or "none"."""
    found = re.search(r"Published: (none|mAP [\d.]+[^()]*) \(([^()]+)\)\.", remarks(file))
    assert found is not None, f"{label(file)}: no 'Published: FIGURE (SOURCE).' at its head"
    return found[1]


@every_recipe
def test_it_validates_and_states_its_figure_and_source(file: Path) -> None:
    settings(file)
    published(file)
    assert re.search(r"Not yet measured here\.|Measured here \d{4}-\d{2}-\d{2}", remarks(file)), label(file)


@every_recipe
def test_it_begins_and_normalises_as_the_original_did(file: Path) -> None:
    """Defaults that came later do not change its numbers; a starting point has them."""
    model = settings(file).model
    if model.lora.rank:
        assert published(file) == "none", "there is no original"
        return
    assert (model.head_start, model.batchnorm) == (("auto", "auto") if file in STARTS else ("random", "batch"))


@every_recipe
def test_its_name_says_data_and_size(file: Path) -> None:
    config = settings(file)
    data = file.stem.partition("_")[0]
    assert f"/{data}" in config.data.train
    assert str(config.model.size) in file.stem.split("_")
    assert (config.data.ignored == "positive") == file.stem.endswith("mcar")


def test_two_recipes_never_share_a_run_folder() -> None:
    """`masksup train` names the run after the file."""
    assert [stem for stem, count in Counter(file.stem for file in RECIPES).items() if count > 1] == []


@every_recipe
def test_it_repeats_nothing_of_its_base(file: Path) -> None:
    own = read_yaml(file)
    base = file.parent / str(own.pop("extends", "base.yaml"))
    assert base.resolve() in BASES
    theirs = leaves(read_yaml(base))
    assert [key for key, value in leaves(own).items() if key in theirs and theirs[key] == value] == []


def test_the_table_lists_every_recipe_with_its_figure() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(configs/[\w/]+\.yaml)` \| ([^|]+) \|", text, flags=re.MULTILINE)
    expected = {f"configs/{label(file)}.yaml": published(file) for file in RECIPES}
    assert dict(rows) == expected
    assert len(rows) == len(expected)
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    commands = " ".join(file.read_text(encoding="utf-8") for file in documents).replace("\n", " ")
    for named in re.findall(r"configs/[\w/]+\.yaml", commands):
        assert (ROOT / named).is_file(), named


@cache
def trunk_of(arguments: str) -> Backbone:
    positional, named = json.loads(arguments)
    return build_backbone(*positional, **named)


def parts_of(file: Path) -> set[Any]:
    """Its family, stand-in, method, head, and what of it is trained."""
    try:
        config = settings(file)
    except UserError:  # its own tests report it
        return {file}
    trained = config.model.frozen, config.model.lora.rank > 0
    return set(enumerate((file.parent.name, stand_in(config), config.method.name, config.model.head.name, trained)))


def by_kind() -> list[Any]:
    """The recipes, marked slow but for a few that have all parts that any has: the greedy choice."""
    parts = {file: parts_of(file) for file in RECIPES}
    missing, short = set().union(*parts.values()), set()
    while missing:
        best = max(RECIPES, key=lambda file: len(parts[file] & missing))
        missing -= parts[best]
        short.add(best)
    return [pytest.param(file, id=label(file), marks=[] if file in short else pytest.mark.slow) for file in RECIPES]


@pytest.mark.parametrize("file", by_kind())
def test_the_full_size_network_fits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, so without memory: timm has network and weights tag, and takes the size; the head takes the
    map, and the method the head."""
    config, classes = settings(file), CLASSES[file.stem.partition("_")[0]]
    # The recipes share a dozen trunks.
    monkeypatch.setattr("masksup.models.network.build_backbone", lambda *a, **named: trunk_of(json.dumps([a, named])))
    with torch.device("meta"):
        network = new_network(config, classes)
        trunk = network.backbone
        new_method(config, network, classes, None)
        assert network.head(torch.empty(2, trunk.width, trunk.grid, trunk.grid)).shape == (2, classes)


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes train (two steps of BATCH) and val (6) of synthetic shapes."""
    folder = tmp_path_factory.mktemp("few")
    for content in prepare_shapes(folder / "root", train=2 * BATCH, val=6, test=1, size=64, seed=3):
        write_index(folder / content.split, content)
    return folder


@pytest.mark.parametrize("file", by_kind())
def test_it_trains_resumes_scores_and_predicts(
    file: Path, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = shrunk(file, few_images)
    assert train(config, tmp_path / "clean") == 0
    rows = [row for row in read_rows(tmp_path / "clean" / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["loss"] is not None and row["skipped_steps"] == 0 for row in rows)
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM")
        assert train(config, tmp_path / "cut") == STOPPED
    assert train(config, tmp_path / "cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "clean")

    run, scores = str(tmp_path / "clean"), tmp_path / "scores.json"
    assert main(["eval", run, "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())["images"] == 6
    pictures = sorted((few_images / "root").rglob("*.jpg"))[:2]
    capsys.readouterr()
    assert main(["predict", run, *map(str, pictures)]) == 0
    assert capsys.readouterr().out.count(" prediction: ") == 2


@pytest.mark.parametrize(
    ("name", "epoch", "trunk", "head"),
    [
        ("csra/voc2007_resnet101_448_csra", 0, 0, 0),  # the very first step of the original
        ("csra/voc2007_resnet101_448_csra", 1, 5e-3, 5e-2),
        ("csra/voc2007_resnet101_448_csra", 3.9, 1e-2, 1e-1),
        ("csra/voc2007_resnet101_448_csra", 4, 1e-3, 1e-2),
        ("csra/coco2014_resnet101_448_csra", 4.9, 1e-2, 1e-1),
        ("csra/wider_vit_b16_224_csra", 5, 1e-3, 1e-2),
        ("msl/wider_vit_l16_224_msl", 10, 1e-4, 1e-3),
        ("msl/voc2007_tresnet_m_448_msl", 3, 1e-2, 1e-2),
        ("csra_paddle/voc2007_resnet101_448_paddle", 5.9, 1e-2, 1e-1),
        ("csra_paddle/voc2007_resnet101_448_paddle", 6, 1e-3, 1e-2),
        ("csra_paddle/voc2007_resnet101_448_paddle_poly", 16, 5e-3, 5e-2),
        ("mcar/voc2007_resnet101_448_mcar", 0, 1e-3, 1e-2),
        ("mcar/voc2012_resnet50_256_mcar", 30, 1e-4, 1e-3),
        ("mcar/coco2014_mobilenetv2_256_mcar", 10, 1e-3, 1e-2),
        ("mcar/coco2014_mobilenetv2_448_mcar", 9.9, 1e-2, 1e-1),
        ("mcar/coco2014_mobilenetv2_448_mcar", 10, 1e-3, 1e-2),
        ("oass/voc2012_resnet50_512_oass_max", 7.5, 0.1 * 0.5**0.9, 0.5**0.9),
    ],
)
def test_rates_are_those_of_the_original(name: str, epoch: float, trunk: float, head: float) -> None:
    """methods.md 1.3, 3, 4.2 and 5.1."""
    config = settings(ROOT / "configs" / f"{name}.yaml")
    plan = Plan(160, 16, 16, config.epochs, "partial", seed=0)  # 10 steps an epoch
    rate = config.optim.lr * rate_factor(config.schedule, plan, round(10 * epoch))
    assert rate * config.optim.backbone_factor == pytest.approx(trunk)
    assert rate * config.optim.head_factor == pytest.approx(head)
