"""Sweep files: the same file gives the same settings, and a longer one adds to them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.cluster.resources import Resources
from launch.ledger import write_json
from launch.start.decide import Left, outcome
from launch.sweeps.halving import hopeless, score_at
from launch.sweeps.results import as_text, scored, swept_keys
from launch.sweeps.settings import Halving, settings
from masksup.errors import UserError

BASE = {"data": {"train": "x"}, "model": {"backbone": "test_resnet"}, "seed": 4}


def write(tmp_path: Path, **sweep: Any) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"base": "base.yaml", **sweep}, sort_keys=False))
    return file


def test_grid_list_random_and_seeds(tmp_path: Path) -> None:
    file = write(
        tmp_path, grid={"optim.lr": [0.1, 0.2], "model.head.name": ["linear", "csra"]},
        list=[{"name": "mine", "epochs": 3}], repeat=2,
        random={"count": 3, "keys": {"optim.lr": {"log": [0.001, 0.1]}, "batch.global": {"choice": [8, 16]}}},
    )  # fmt: skip
    found = settings(file)
    assert len(found) == (4 + 1 + 3) * 2
    assert found[0].folder == "lr=0.1,head=linear/seed4"
    assert found[1].config.seed == 5
    assert found[8].name == "mine"
    assert found[8].config.epochs == 3
    drawn = [s.config for s in found[10:]]
    assert all(0.001 <= c.optim.lr <= 0.1 and c.batch.global_ in (8, 16) for c in drawn)
    assert len({c.optim.lr for c in drawn}) == 3
    assert drawn[0].optim.lr == drawn[1].optim.lr, "seeds of one setting differ in nothing else"


def test_more_draws_keys_and_values_change_no_setting_there_was(tmp_path: Path) -> None:
    def asked(count: int, **more: Any) -> dict[str, float]:
        keys = {"optim.lr": {"uniform": [0.1, 0.2]}, **more}
        found = settings(write(tmp_path, random={"count": count, "seed": 1, "keys": keys}))
        return {s.name: s.config.optim.lr for s in found}

    few, many = asked(3), asked(9)
    assert few == {name: many[name] for name in few}
    assert few == asked(3, **{"ema.decay": {"uniform": [0.1, 0.2]}})


def test_a_longer_file_renames_no_setting(tmp_path: Path) -> None:
    """Also where a new key ends as an old one does."""
    grid = {"ema.decay": [0.0, 0.9], "model.head.name": ["linear", "csra"]}
    few = {s.folder for s in settings(write(tmp_path, grid=grid))}
    more = [{"optim.decay": "matrices"}, {"log.every_steps": 3}, {"model.head.name": "csra", "model.head.heads": 2}]
    many = {s.folder for s in settings(write(tmp_path, grid=grid, list=more))}
    assert few < many
    assert "head=csra,head.heads=2/seed4" in many


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "sweep.yaml"
    file.write_text("base: base.yaml\nrandom: {count: 5, keys: {optim.lr: {log: [1e-4, 1e-3]}}}\n")
    assert all(1e-4 <= s.config.optim.lr <= 1e-3 for s in settings(file))
    file.write_text("base: base.yaml\ngrid: {optim.lr: [1e-4, 0.0002]}\n")
    assert [s.name for s in settings(file)] == ["lr=0.0001", "lr=0.0002"]


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"grid": {"optim.rate": [1]}}, "optim.rate: unknown key; known: "),
        ({"grids": {}}, "grids: unknown key; did you mean 'grid'"),
        ({"grid": {"optim.lr": []}}, "grid.optim.lr: found no value"),
        ({"grid": {"optim.lr": [-1]}}, "optim.lr: found -1"),
        ({"list": [{"name": "a/b"}]}, "list.0.name: found 'a/b'"),
        ({"list": [{"name": "a"}, {"name": "a", "epochs": 2}]}, "the setting 'a' stands twice"),
        ({"random": {"count": 1, "keys": {"optim.lr": {"lognormal": [0, 1]}}}}, "lognormal: unknown"),
        ({"random": {"count": 1, "keys": {"optim.lr": {"log": [0, 1]}}}}, "expected a low and a high number"),
        ({"list": [{"name": ".."}]}, "list.0.name: found '..'"),
        ({"list": [{"name": "launch"}]}, "list.0.name: found 'launch', which the sweep's folder uses itself"),
        ({"random": {"count": 1, "keys": {"epochs": {"integer": [1.5, 1.9]}}}}, "expected two whole numbers"),
        ({"random": {"count": 1, "keys": {"epochs": {"choice": []}}}}, "choice: found no value"),
        ({"repeat": 0}, "repeat"),
        ({"repeat": []}, "repeat: found []"),
        ({"repeat": [1, 1]}, "repeat: found [1, 1], expected a number of seeds or a list of different ones"),
        ({"parallel": 0}, "parallel: found 0"),
    ],
)
def test_mistakes_are_one_line_that_names_file_and_key(tmp_path: Path, sweep: dict[str, Any], said: str) -> None:
    file = write(tmp_path, **sweep)
    with pytest.raises(UserError) as error:
        settings(file)
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_long_names_stay_different_and_short_enough_for_a_file_system(tmp_path: Path) -> None:
    grid = {"data.train": [f"{'/far' * 40}/{k}" for k in range(3)]}
    names = [s.name for s in settings(write(tmp_path, grid=grid))]
    assert len(set(names)) == 3
    assert all(len(name) <= 80 and "/" not in name for name in names)


def test_the_sweeps_of_the_project_are_right() -> None:
    root = Path(__file__).resolve().parents[2]
    files = sorted((root / "configs" / "sweeps").glob("*.yaml"))
    assert files
    for file in files:
        assert settings(file)


def sweep_of_scores(home: Path, scores: dict[str, list[float]]) -> None:
    """Runs that were evaluated at epochs 1, 2, ...; the record of the training between is there too."""
    write_json(home / "launch" / "sweep.json", {"base": "b.yaml", "settings": {
        name: {"name": name.partition("/")[0], "seed": 0, "overrides": ["x=1"]} for name in scores}})  # fmt: skip
    for name, values in scores.items():
        (home / name).mkdir(parents=True)
        rows = [{"kind": "train", "step": 1, "epoch": 0.5}]
        rows += [{"kind": "eval", "step": k, "epoch": float(k), "mAP": v} for k, v in enumerate(values, 1)]
        (home / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_halving_ends_the_worse_half_of_those_that_came_as_far(tmp_path: Path) -> None:
    sweep_of_scores(tmp_path, {"a": [10, 40], "b": [20, 30], "c": [30, 20], "d": [40]})
    rule = Halving(epochs=[1, 2], keep=0.5, at_least=3)
    ended = {name for name in "abcd" if hopeless(tmp_path / name, tmp_path, rule)}
    assert ended == {"c"}, "at epoch 2 c is the last of three, of which two may go on; d is the best at epoch 1"
    assert not any(hopeless(tmp_path / name, tmp_path, Halving(epochs=[2], at_least=4)) for name in "abcd")
    assert score_at(tmp_path / "d", 2) is None
    assert outcome(Left(1, 75, {0: {"status": 75}}, 1.0, False, False, hopeless=True), Resources()) == "hopeless"


def test_the_table_is_sorted_with_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    rows = {f"{name}/seed{seed}": {"name": name, "seed": seed, "overrides": [f"optim.lr={name}", f"seed={seed}"]}
            for name in ("low", "high", "none") for seed in (0, 1)}  # fmt: skip
    write_json(tmp_path / "launch" / "sweep.json", {"base": "b.yaml", "settings": rows})
    for place, score in {"low/seed0": 10.0, "low/seed1": 14.0, "high/seed0": 50.0}.items():
        write_json(tmp_path / place / "result.json", {"best": {"eval": {"mAP": score}}})
    table = scored(tmp_path)
    assert [(s.name, s.mean, s.missing) for s in table] == [("high", 50.0, 1), ("low", 12.0, 0), ("none", None, 2)]
    assert table[1].spread == pytest.approx(8**0.5)
    assert "best: masksup train b.yaml optim.lr=high" in as_text(tmp_path, table)
    assert swept_keys(tmp_path) == ["optim.lr", "seed"]
