"""`masksup recipes`, `models` and `settings`: what is listed is what there is."""

import json
import subprocess
from pathlib import Path

import pytest

from masksup.cli import main
from masksup.config.components import HEADS, LOSSES, METHODS
from masksup.config.load import validate
from masksup.config.messages import schema_keys
from masksup.config.recipes import chosen, find_recipes
from masksup.config.registry import Registry
from masksup.config.settings import find_settings
from masksup.config.yaml_text import parse_yaml
from masksup.errors import UserError

OF_LORA = (".alpha", ".layers", ".rank")
ROOT = Path(__file__).resolve().parents[1]


def with_value(key: str, value: object, part: str) -> dict[str, object]:
    """A tree of settings in which one is set, and the part chosen that it is an option of."""
    tree: dict[str, object] = {"data": {"train": "a"}, "model": {"backbone": "b"}}
    node = tree
    *parents, last = key.split(".")
    for name in parents:
        node = node.setdefault(name, {})  # type: ignore[assignment]
    node[last] = value
    if part:
        node["name"] = part
    return tree


def test_every_setting_has_a_meaning_and_an_example_of_its_kind() -> None:
    rows = find_settings()
    assert {row["setting"] for row in rows} >= set(schema_keys())
    for row in rows:
        assert row["meaning"], row
        key, _, text = row["example"].partition("=")
        assert key == row["setting"]
        said = refusal(with_value(key, parse_yaml(text), row["of"]))
        # It may need another setting, but not another kind of value.
        assert "input should" not in said.lower(), (row, said)
        assert "unknown" not in said, (row, said)


def refusal(tree: dict[str, object]) -> str:
    try:
        validate(tree, "example")
    except UserError as error:
        return str(error)
    return ""


def test_examples_are_mostly_other_values_than_the_default() -> None:
    same = [r["setting"] for r in find_settings() if not r["of"] and r["example"] == f"{r['setting']}={r['default']}"]
    assert same == []


@pytest.mark.parametrize("registry", [HEADS, LOSSES, METHODS], ids=lambda registry: registry.kind)
def test_options_of_every_part_are_listed(registry: Registry) -> None:
    section = registry.key.removesuffix(".name")
    listed = {(row["of"], row["setting"]) for row in find_settings(section)}
    for name in registry.entries:
        assert {(name, f"{section}.{option}") for option in registry.options(name).model_fields} <= listed


def test_settings_of_a_section_and_a_wrong_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "stop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stop.patience_epochs"
    assert "example: stop.patience_epochs=5" in " ".join(lines)
    assert main(["settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [row["setting"] for row in find_settings()]
    assert max(len(line) for line in lines) <= 80
    assert main(["settings", "lr"]) == 2
    assert "did you mean optim.lr?" in capsys.readouterr().err
    assert main(["settings", "nope"]) == 2
    assert "unknown section or key 'nope'; known: augment" in capsys.readouterr().err
    assert main(["settings", "optm"]) == 2
    assert "did you mean 'optim'?" in capsys.readouterr().err


def test_recipes_are_the_files_and_filters_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipes = find_recipes(ROOT / "configs")
    files = {file for file in (ROOT / "configs").glob("*/*.yaml") if file.parent.name != "sweeps"}
    assert {recipe.file for recipe in recipes} == {file for file in files if not file.stem.startswith("base")}
    found = chosen(recipes, "voc2007", "mcar")
    assert [r.published for r in found if r.size == 448 and "resnet101" in r.backbone] == ["mAP 94.8", "mAP 95.6"]
    memory = {recipe.file.stem: recipe.memory for recipe in recipes if recipe.memory}
    assert memory == {"quickstart": "1.0 GB", "voc2007_mini_resnet101": "2.6 GB", "voc2007_mini_vit_l16": "7.0 GB"}
    out = tmp_path / "all.json"
    assert main(["recipes", "--data", "coco_small", "--configs", str(ROOT / "configs"), "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert {row["file"]: row["measured here"] for row in rows}[
        str(ROOT / "configs/examples/coco_small.yaml")
    ] == "mAP 58.38 +- 0.30"
    assert main(["recipes", "--configs", str(ROOT / "configs"), "--method", "mcr"]) == 2
    assert "did you mean 'mcar'?" in capsys.readouterr().err
    assert main(["recipes", "--configs", str(ROOT / "configs"), "--method", "msl", "--data", "voc2012"]) == 2
    assert "no recipe on voc2012; there are some on coco2014, voc2007, wider" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such folder"):
        find_recipes(tmp_path / "nowhere")


def test_models_by_part_of_a_name_and_by_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "efficientnet_lite0", "--json"]) == 0
    rows = {row["backbone"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["tf_efficientnet_lite0.in1k"]["parameters"] == "3.4 M"
    assert rows["tf_efficientnet_lite0.in1k"]["px of the weights"] == 224
    assert main(["models"]) == 0
    assert "resnet" in capsys.readouterr().out
    assert main(["models", "resnett"]) == 2
    assert "timm has none like 'resnett'" in capsys.readouterr().err


def test_bash_completes_commands_options_and_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "masksup").write_text(capsys.readouterr().out)

    for file in ("runs/mine/config.yaml", "run.yml", "rust.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        script = (
            f"source {tmp_path / 'masksup'}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
            "_shtab_masksup; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("masksup", "calib") == ["calibrate"]
    assert "--run-dir" in completed("masksup", "train", "--")
    assert completed("masksup", "train", "mine.yaml", "optim.layer") == ["optim.layer_decay="]
    assert sorted(completed("masksup", "train", "ru")) == ["run.yml", "runs/"]
    assert completed("masksup", "train", "runs/mine/") == ["runs/mine/config.yaml"]
    for command in ("track", "report", "replay", "predict", "doctor"):
        assert completed("masksup", command, "ru") == ["runs/"]
        assert completed("masksup", command, "runs/") == ["runs/mine"]
    assert sorted(completed("masksup", "predict", "runs/mine", "ru")) == ["run.yml", "runs", "rust.txt"]
    assert completed("masksup", "settings", "model.lo") == [f"model.lora{key}" for key in ("", *OF_LORA)]
    assert completed("masksup", "recipes", "--data", "voc2007") == ["voc2007", "voc2007_mini"]
