"""`--json [FILE]`: every command that prints a table has it, and standard output then holds that one value alone."""

import argparse
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.__main__ import _COMMANDS as LAUNCH
from launch.__main__ import main as launch
from masksup.base.json_option import add_json, given_as_json
from masksup.cli import COMMANDS, main, option_names
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.errors import UserError

# What they print is no table, or a file of theirs holds it.
WITHOUT_TABLE = {
    "shards": "a line", "import": "lines", "pack": "a line", "predict": "a line an image; --out FILE.json",
    "export": "lines; the file's metadata", "report": "a line; the page", "replay": "lines; replay.json",
    "track": "lines", "schema": "JSON itself", "completion": "a script", "demo": "a page",
    "submit": "lines", "cancel": "lines", "requeue": "lines", "resume": "lines", "logs": "a log",
}  # fmt: skip


@pytest.fixture
def config(tiny_config: Callable[..., Config], tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    file = tmp_path / "mine.yaml"
    file.write_text(to_yaml(tiny_config(epochs=1)))
    return file


@pytest.mark.parametrize("name", [*COMMANDS, *LAUNCH])
def test_a_command_has_the_option_or_prints_no_table(name: str) -> None:
    add_arguments = (
        LAUNCH[name][1] if name in LAUNCH else import_module(f"masksup.commands.{COMMANDS[name][0]}").add_arguments
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert ("--json" in option_names(parser)) != (name in WITHOUT_TABLE)


def test_train_calibrate_eval_and_a_configuration(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def value(*words: object) -> Any:
        assert main([*map(str, words), "--json"]) == 0
        said = capsys.readouterr()
        assert said.err, "what people read is on standard error"
        return json.loads(said.out)

    assert value("train", config, "--run-dir", run) == json.loads((run / "result.json").read_text())
    facts = value("calibrate", run, "--bootstrap", 20, "--folds", 3, "--min-positives", 20)
    assert facts.items() <= json.loads((run / "calibration.json").read_text()).items()
    scores, best = value("eval", run, "--bootstrap", 0), json.loads((run / "result.json").read_text())["best"]
    assert scores["AP"] == best["eval"]["AP"]
    assert main(["train", str(config), "--print-config", "--json"]) == 0
    rows = {row["setting"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["epochs"]["value"], rows["epochs"]["from"]) == ("1.0", str(config))


def test_prepare_gives_what_its_tables_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--train", "6", "--val", "3", "--test", "2", "--size", "32"]
    command = ["prepare", "shapes", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "data"), *sizes]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    images = {split["split"]: split["images"] for split in found["splits"]}
    assert images == {"train": 6, "val": 3, "trainval": 9, "test": 2}
    for split in found["splits"]:
        assert sum(split["classes"].values()) == split["positives"]
        assert (Path(split["index"]) / "index.json").is_file()


def test_a_sweep_and_a_preflight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "a/seed0").mkdir(parents=True)
    setting = {"name": "a", "seed": 0, "overrides": ["optim.lr=0.1", "seed=0"]}
    (tmp_path / "launch/sweep.json").write_text(json.dumps({"base": "b.yaml", "settings": {"a/seed0": setting}}))
    words = ["sweep", "s.yaml", "--sweep-dir", str(tmp_path), "--json"]
    assert launch(words) == 2
    assert "--json: found it without --results, expected both" in capfd.readouterr().err
    assert launch([*words, "--results"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert (row["name"], row["overrides"], row["missing"], row["mean"]) == ("a", ["optim.lr=0.1"], 1, None)

    report = tmp_path / "preflight.json"
    (tmp_path / "srun").write_text(f"#!/bin/sh\ntest ! -e {report} || exit 9\necho table\necho '{{}}' > {report}\n")
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "sbatch").symlink_to("srun")
    (tmp_path / "sinfo").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    report.write_text('{"of": "an earlier one"}')
    assert launch(["preflight", "--folder", str(tmp_path), "--json"]) == 0
    said = capfd.readouterr()
    assert (json.loads(said.out), said.err) == ({}, "table\n")


def test_nothing_is_written_after_a_mistake_or_over_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for into, said in (
        ("epochs=5", "--json: found 'epochs=5', expected the name of a file; write settings before --json"),
        (str(tmp_path), f"--json: found the folder {tmp_path}, expected the name of a file"),
        (str(tmp_path / "nowhere/a.json"), "nowhere: cannot be written to"),
    ):
        with pytest.raises(UserError, match=re.escape(said)), given_as_json(into):
            pytest.fail("the work was begun")
    with pytest.raises(UserError, match="half way"):
        _half_way()
    assert capsys.readouterr().out == ""


def _half_way() -> None:
    with given_as_json("-") as give:
        give({"a": 1})
        raise UserError("half way")


def test_a_value_without_a_number_in_json_is_null(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_json(parser, "rows")
    file = tmp_path / "a.json"
    with given_as_json(parser.parse_args(["--json", str(file)]).json) as give:
        give([{"mAP": float("nan")}])
    assert json.loads(file.read_text()) == [{"mAP": None}]
