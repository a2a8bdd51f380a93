"""The configuration is strict, and says where a value came from."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from masksup.config.load import differences, dump, load_config, to_yaml, validate
from masksup.config.schema import Config
from masksup.config.show import describe
from masksup.errors import UserError

MINIMAL = "data: {train: d/train}\nmodel: {backbone: resnet18}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MINIMAL + "optim: {lrr: 0.1}\n", r"optim\.lrr: unknown key; did you mean 'lr'\? known: .*weight_decay"),
        (MINIMAL + "optim: {l2: -1}\n", r"optim\.l2: found -1; input should be greater than 0 or 'auto'$"),
        ("data: {train: /d}\nmodel: {backbone: x, mean: [0.5]}\n",
         r"model\.mean: found \[0\.5\]; input should be 'card' or a list of 3 numbers$"),
        ("data: {train: /d}\nmodel: {backbone: x, std: [0.5, 0, 1]}\n",
         r"model\.std: found .*; input should be 'card' or a list of 3 numbers, each greater than 0$"),
        (MINIMAL + "optin: {lr: 0.1}\n", r"optin: unknown key; did you mean 'optim'"),
        (MINIMAL + "optim: {lr: fast}\n", r"optim\.lr: found 'fast'; .*number"),
        (MINIMAL + "optim: {lr: -1}\n", r"optim\.lr: found -1; .*greater than 0"),
        (MINIMAL + "optim: {lr: .nan}\n", r"optim\.lr: found nan; .*finite"),
        (MINIMAL + "optim: {lr: 1}\noptim: {lr: 2}\n", r"not valid YAML: key 'optim' stands twice .*line 4"),
        (MINIMAL + "batch: {global: 16, micro: 5}\n", r"batch\.micro: 5 does not divide batch\.global 16; nearest: 4"),
        (MINIMAL + "data2: 1\nfoo: 2\n", r"\(and 1 more\)"),
        (MINIMAL + "loss: {name: asll}\n", r"loss\.name: unknown loss 'asll'; .*known: .*bce"),
        (MINIMAL + "loss: {name: bce, smoothin: 0.1}\n", r"loss\.smoothin: not an option of loss 'bce'; did you mean"),
        (MINIMAL + "loss: {name: bce, smoothing: soft}\n", r"loss\.smoothing: found 'soft'"),
        (MINIMAL + "loss: {name: bce, smoothing: .nan}\n", r"loss\.smoothing: found nan, expected numbers"),
        (MINIMAL + "method: {name: masksup, weights: [.nan, 1, 1]}\n", r"method\.weights: found \[nan, 1, 1\]"),
        (MINIMAL + "method: {name: masksup, base: {name: mcar, top: .nan}}\n", r"method\.base\.top: found nan"),
        (MINIMAL + "eval: {weights: ema}\n", r"eval\.weights: ema, but ema\.decay is 0"),
        (MINIMAL + "stop: {patience_epochs: 3}\n", r"stop\.patience_epochs: found 3\.0, but .* set data\.eval"),
        (MINIMAL + "optim: {layer_decay: 0}\n", r"optim\.layer_decay: found 0; .*greater than 0"),
        (MINIMAL + "optim: {layer_decay: 1.1}\n", r"optim\.layer_decay: found 1\.1; .*less than or equal to 1"),
        (MINIMAL.replace("resnet18", "a, frozen: true") + "optim: {layer_decay: 0.9}\n", r"layer_decay: .*frozen"),
        (MINIMAL + "schedule: {name: multistep}\n", r"schedule\.milestones: empty"),
        (MINIMAL + "schedule: {warmup_epochs: 30}\n", r"schedule\.warmup_epochs: 30 is not below epochs 10"),
        ("model: {backbone: resnet18}\n", r"data: not set"),
        ("data: {train: x, eval: y, folds: 3}\nmodel: {backbone: a}\n", r"data\.eval: set together with data\.folds"),
        ("data: {train: x, folds: 3, fold: 3}\nmodel: {backbone: a}\n", r"data\.fold: found 3, expected 0 to 2"),
        (MINIMAL + "augment: {scale: [1.0, 0.5]}\n", r"augment\.scale: the first number is above the second"),
        (MINIMAL + "epochs: 1.0e+300\n", r"epochs: found 1e\+300; .*less than or equal to 1000000"),
        (MINIMAL + "epochs: true\n", r"epochs: found True, expected another kind of value"),
        (MINIMAL.replace("resnet18", "a, frozen: 1"), r"model\.frozen: found 1, expected true or false"),
        (MINIMAL + "seed: 2001-13-45\n", "not valid YAML"),
        (MINIMAL + f"seed: {'[' * 3000}\n", "not valid YAML"),
        ("data: [\n", "not valid YAML"),
        ("- 1\n", "found list, expected a mapping"),
        ("data: !!python/object/apply:os.system ['touch executed']\n", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_naming_file_and_key(text: str, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", text)
    with pytest.raises(UserError, match=expected) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such configuration file"):
        load_config(tmp_path / "nowhere.yaml")


def test_extends_merges_below_and_overrides_win(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", MINIMAL + "optim: {lr: 0.1, clip: 2}\nloss: {name: bce, smoothing: 0.3}\n")
    child = write(tmp_path / "child.yaml", "extends: base.yaml\noptim: {lr: 0.2}\nseed: 3\n")
    config, sources = load_config(child, ["optim.clip=1e-1", "schedule.milestones=[3, 4]"])
    assert (config.optim.lr, config.optim.clip, config.seed) == (0.2, 0.1, 3)
    assert config.schedule.milestones == (3.0, 4.0)
    assert config.loss.options["smoothing"] == 0.3
    assert sources["optim.lr"] == str(child)
    assert sources["optim.clip"] == "command line"
    assert sources["loss.smoothing"] == str(tmp_path / "base.yaml")
    assert "optim.momentum" not in sources


def test_another_part_does_not_inherit_the_old_parts_options(tmp_path: Path) -> None:
    write(
        tmp_path / "base.yaml",
        MINIMAL.replace("}\n", ", head: {name: csra, lam: 0.3}}\n").replace(", head: {name: csra, lam: 0.3}", "", 1),
    )
    child = write(tmp_path / "child.yaml", "extends: base.yaml\nmodel: {head: {name: linear}}\n")
    assert load_config(child)[0].model.head.name == "linear"
    assert load_config(tmp_path / "base.yaml", ["model.head.name=linear"])[0].model.head.name == "linear"
    assert load_config(tmp_path / "base.yaml", ["model.head.lam=0.5"])[0].model.head.options["lam"] == 0.5


def test_only_one_level_of_extends(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", MINIMAL)
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    with pytest.raises(UserError, match=r"b\.yaml: extends: .* one level"):
        load_config(write(tmp_path / "c.yaml", "extends: b.yaml\n"))


@pytest.mark.parametrize(
    "override", ["optim.lr", "=3", "seed.x=1", "optim={lr: 1, lr: 2}", "seed=2001-13-45", "optim.lr=[", "optim.lr.x=1"]
)
def test_bad_override_is_named(override: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"override|optim"):
        load_config(write(tmp_path / "run.yaml", MINIMAL + "optim: {lr: 1}\nseed: 2\n"), [override])


def test_the_name_of_an_optimiser_or_schedule_keeps_the_other_settings(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", MINIMAL + "optim: {name: adamw, lr: 0.005}\n")
    child = write(tmp_path / "child.yaml", "extends: base.yaml\noptim: {name: sgd}\n")
    assert load_config(child)[0].optim.lr == 0.005
    config, sources = load_config(tmp_path / "base.yaml", ["optim.lr=0.7", "optim.name=sgd"])
    assert (config.optim.name, config.optim.lr) == ("sgd", 0.7)
    assert sources["optim.lr"] == "command line"


def test_options_beside_a_new_part_are_kept_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", MINIMAL.replace("}\n", ", head: {name: linear, dropout: 0.1}}\n", 2).replace(
        ", head: {name: linear, dropout: 0.1}", "", 1))  # fmt: skip
    config, sources = load_config(path, ["model.head.lam=0.5", "model.head.name=csra"])
    assert config.model.head.options["lam"] == 0.5
    assert "model.head.dropout" not in sources


def test_yaml_merge_keys_work(tmp_path: Path) -> None:
    text = MINIMAL + "optim:\n  <<: {lr: 0.1, clip: 3}\n  lr: 0.2\n"
    config, _ = load_config(write(tmp_path / "run.yaml", text))
    assert (config.optim.lr, config.optim.clip) == (0.2, 3.0)


def test_a_bad_override_blames_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^command line: optim\.lr: found -1"):
        load_config(write(tmp_path / "run.yaml", MINIMAL), ["optim.lr=-1"])


def test_resolved_file_reproduces_the_configuration(tmp_path: Path) -> None:
    config, _ = load_config(write(tmp_path / "run.yaml", MINIMAL), ["epochs=3", "model.head.name=csra"])
    again, _ = load_config(write(tmp_path / "resolved.yaml", to_yaml(config)))
    assert again == config
    assert Path(config.data.train).is_absolute()


@given(
    lr=st.floats(1e-9, 1e9),
    decay=st.floats(0, 0.999999),
    seed=st.integers(0, 2**63 - 1),
    micro=st.sampled_from([1, 2, 4]),
)
def test_any_value_survives_the_file(lr: float, decay: float, seed: int, micro: int) -> None:
    tree = {
        "seed": seed,
        "data": {"train": "x"},
        "model": {"backbone": "a"},
        "optim": {"lr": lr},
        "ema": {"decay": decay},
    }
    config = validate({**tree, "batch": {"global": 4, "micro": micro}}, "test")
    assert validate(yaml.safe_load(to_yaml(config)), "test") == config


def test_every_setting_has_a_meaning_or_a_telling_name(tmp_path: Path) -> None:
    config, sources = load_config(write(tmp_path / "run.yaml", MINIMAL))
    rows = {key: meaning for key, _, _, meaning, _ in describe(config, sources)}
    silent = [key for key, meaning in rows.items() if not meaning]
    assert set(silent) <= {
        "model.head.name", "method.name", "loss.name", "optim.name", "optim.nesterov", "optim.weight_decay",
        "schedule.name", "eval.every_epochs", "checkpoint.every_minutes", "precision.device",
    }, silent  # fmt: skip


def test_differences_name_both_values(tmp_path: Path) -> None:
    a, _ = load_config(write(tmp_path / "run.yaml", MINIMAL))
    b, _ = load_config(tmp_path / "run.yaml", ["optim.lr=0.5", "model.head.name=csra"])
    assert differences(a, b)["optim.lr"] == "0.01 -> 0.5"
    assert differences(a, b)["model.head.lam"].startswith("None ->")
    assert differences(a, a) == {}


def test_config_is_frozen(tmp_path: Path) -> None:
    config, _ = load_config(write(tmp_path / "run.yaml", MINIMAL))
    with pytest.raises(Exception, match="frozen"):
        config.optim.lr = 3.0  # type: ignore[misc]
    assert isinstance(config, Config)
    assert dump(config)["batch"]["global"] == 16


@pytest.mark.parametrize("temperatures", [None, [1.0, 2.0, 3.0]])
def test_csra_heads_are_refused_before_torch_where_the_head_refuses_them(
    tmp_path: Path, temperatures: list[float] | None
) -> None:
    from masksup.models.heads.csra import CSRA

    for heads in range(10):
        words = [
            f"model.head.heads={heads}",
            f"model.head.temperatures={'null' if temperatures is None else temperatures}",
        ]
        said = []
        for make in (
            lambda words=words: load_config(write(tmp_path / "a.yaml", MINIMAL), ["model.head.name=csra", *words]),
            lambda heads=heads: CSRA(8, 3, heads=heads, lam=0.1, temperatures=temperatures),
        ):
            try:
                make()
                said.append("")
            except UserError as error:
                said.append(str(error).partition(": ")[2] if str(error).startswith(str(tmp_path)) else str(error))
        assert said[0] == said[1], heads
