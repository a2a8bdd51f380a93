"""What of a run's settings may change from start to start: of every field, and in real resumes."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same_run
from pydantic import BaseModel
from test_train import stop_after

from launch.__main__ import main as launch
from masksup.cli import main
from masksup.config.auto import resolved
from masksup.config.load import dump, to_yaml, validate
from masksup.config.messages import items, schema_keys
from masksup.config.on_resume import on_resume
from masksup.config.schema import Config, OnResume, Section
from masksup.data.index import open_index
from masksup.data.shapes import prepare_shapes
from masksup.data.split import make_plan, open_source
from masksup.data.write_index import write_index
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint
from masksup.runtime.machine import device_model, versions
from masksup.runtime.run_folder import as_in_folder, open_run, read_run_config, refuse_other_config
from masksup.training.train import train

MakeConfig = Callable[..., Config]

FREE = {
    "data.workers", "data.loader", "data.prefetch", "model.features", "model.features_limit_gb",
    "optim.max_skipped",
    "checkpoint.every_minutes", "checkpoint.every_steps", "checkpoint.keep", "checkpoint.snapshot_seconds",
    "log.every_steps", "log.images", "log.picture_minutes", "log.pr_curves", "log.plots",
    "parallel.start_seconds", "parallel.first_step_seconds", "parallel.step_seconds",
}  # fmt: skip
TOLD = {
    "data.max_pixels", "data.broken_budget", "eval.batch", "precision.threads", "parallel.engine",
    "parallel.zero_stage", "parallel.offload_optimizer", "parallel.offload_param", "parallel.zero_options",
    "parallel.backend", "parallel.bucket_mb", "parallel.static_graph",
}  # fmt: skip
MOVED = {"data.train", "data.eval", "data.test"}


def sections(section: type[BaseModel] = Config) -> Iterator[type[Section]]:
    if issubclass(section, Section):
        yield section
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


def another(value: Any) -> Any:
    """A value that is not this one. What may be set is no matter where it is only compared."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {"a": 1} if isinstance(value, dict) else "other"


def with_another(config: Config, key: str) -> Config:
    """The configuration with another value of one key, unchecked."""
    *parents, last = [{"global": "global_"}.get(part, part) for part in key.split(".")]
    parts: list[Any] = [config]
    for parent in parents:
        parts.append(getattr(parts[-1], parent))
    changed = parts[-1].model_copy(update={last: another(getattr(parts[-1], last))})
    for part, parent in zip(reversed(parts[:-1]), reversed(parents)):
        changed = part.model_copy(update={parent: changed})
    return changed  # type: ignore[no-any-return]


def test_every_section_says_what_its_fields_are() -> None:
    for section in sections():
        assert isinstance(vars(section).get("on_resume"), OnResume), section.__name__


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("key", schema_keys())
def test_another_value_of_any_field_is_refused_or_allowed_as_marked(
    key: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = resolved(tiny_config(), has_batch_norm=True)
    open_run(tmp_path / "run", config)
    mark = OnResume.FREE if key in FREE else OnResume.TOLD if key in TOLD else OnResume.REFUSED
    assert on_resume(key) is (OnResume.SAME_INDEX if key in MOVED else mark)
    other = with_another(config, key)
    assert dict(items(dump(other))) != dict(items(dump(config)))
    if key in FREE | TOLD | MOVED:
        refuse_other_config(tmp_path / "run", other)
    else:
        with pytest.raises(UserError, match=rf"another configuration \({key}"):
            refuse_other_config(tmp_path / "run", other)


def test_the_options_of_a_part_are_the_run(tiny_config: MakeConfig, tmp_path: Path) -> None:
    open_run(tmp_path / "run", tiny_config())
    with pytest.raises(UserError, match=r"model\.head\.dropout: 0\.2 -> 0\.3"):
        refuse_other_config(tmp_path / "run", tiny_config(model__head={"name": "linear", "dropout": 0.3}))


def cut(config: Config, run: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        assert train(config, run) == STOPPED


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())  # type: ignore[no-any-return]


def test_free_operation_and_data_elsewhere_give_the_same_run(
    tiny_config: MakeConfig, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = tiny_config(), tmp_path / "run"
    assert train(config, tmp_path / "clean") == 0
    cut(config, run, 2, monkeypatch)
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_data / "train", moved)
    now = tiny_config(data__train=str(moved), data__workers=1, checkpoint={"every_steps": 1, "keep": 3})
    assert train(now, run) == 0
    assert_same_run(run, tmp_path / "clean")
    assert result(run)["changed"] == []
    assert read_run_config(run) == as_in_folder(run, now), "the folder says where the data is now"


def test_another_index_is_refused_and_leaves_the_folder_as_it_was(
    tiny_config: MakeConfig, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(data__eval=None)
    cut(config, tmp_path, 2, monkeypatch)
    for starts in (True, False):  # folders of older versions note no indexes
        if not starts:
            (tmp_path / "starts.jsonl").write_text('{"attempt": 1}\n')
        before = {name: (tmp_path / name).read_bytes() for name in ("config.yaml", "starts.jsonl")}
        for other in ({"data__train": str(tiny_data / "val")}, {"data__eval": str(tiny_data / "val")}):
            with pytest.raises(UserError, match=r"other data \(data\.\w+: .* -> .*\); expected an index of the same"):
                train(tiny_config(**{"data__eval": None, **other}), tmp_path)
        assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_another_index_is_refused_for_a_finished_run_and_by_the_launcher(
    tiny_config: MakeConfig, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(tiny_config(epochs=1), run) == 0
    other = tiny_config(epochs=1, data__test=str(tiny_data / "train"))
    with pytest.raises(UserError, match=r"other data \(data\.test"):
        train(other, run)
    (run / "result.json").unlink()
    config = (run / "config.yaml").read_text()
    (tmp_path / "other.yaml").write_text(to_yaml(other))
    words = ["submit", str(tmp_path / "other.yaml"), "--run-dir", str(run), "--cluster", "local"]
    assert launch([*words, "--gpus-per-node", "0", "--ranks-per-node", "1"]) == 2
    assert "other data (data.test" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == config


def test_operation_that_may_change_results_is_told_and_kept_through_later_starts(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(tiny_config(), tmp_path, 2, monkeypatch)
    now = tiny_config(eval={"batch": 7}, precision={"threads": 1})
    cut(now, tmp_path, 1, monkeypatch)
    assert "going on otherwise (eval.batch: 32 -> 7)" in "".join(capsys.readouterr())
    assert train(now, tmp_path) == 0
    assert "going on otherwise" not in "".join(capsys.readouterr())
    assert result(tmp_path)["changed"] == [{"step": 2, "start": 2, "settings": {"eval.batch": "32 -> 7"}}]
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert [row["settings"]["eval.batch"] for row in starts] == [32, 7, 7]


def test_a_checkpoint_of_another_version_is_one_line(tiny_config: MakeConfig, tmp_path: Path) -> None:
    assert train(tiny_config(epochs=1), tmp_path) == 0
    (tmp_path / "result.json").unlink()
    (newest, *_) = list_checkpoints(tmp_path / "checkpoints")
    saved = read_checkpoint(newest)
    shutil.rmtree(tmp_path / "checkpoints")
    meta = {**saved.meta, "at": {**saved.meta["at"], "of_tomorrow": 1}}
    (tmp_path / "checkpoints").mkdir()
    write_checkpoint(tmp_path / "checkpoints", newest.name, replace(saved, meta=meta))
    with pytest.raises(UserError, match=r"written by another version of this program .*of_tomorrow.*--run-dir"):
        train(tiny_config(epochs=1), tmp_path)


def test_another_device_or_library_is_one_warning_and_kept(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(tiny_config(), tmp_path, 2, monkeypatch)
    there = {"device": "another model", "torch": "2.0"}
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.open.device_model", lambda _: there["device"])
        patch.setattr("masksup.training.open.versions", lambda: {**versions(), "torch": there["torch"]})
        cut(tiny_config(), tmp_path, 1, monkeypatch)
    text = "".join(capsys.readouterr())
    here = {"device": device_model(torch.device("cpu")), **versions()}
    moved = {key: f"{here[key]} -> {value}" for key, value in there.items()}
    assert text.count("going on otherwise") == text.count("not promised to be bit-equal") == 1
    assert f"({'; '.join(f'{key}: {values}' for key, values in moved.items())})" in text
    assert train(tiny_config(), tmp_path) == 0
    back = {key: f"{value} -> {here[key]}" for key, value in there.items()}
    assert result(tmp_path)["changed"] == [
        {"step": 2, "start": 2, "settings": moved}, {"step": 3, "start": 3, "settings": back},
    ]  # fmt: skip


def test_an_image_that_breaks_in_mid_run_is_cured_by_a_budget(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in prepare_shapes(tmp_path / "root", train=30, val=10, test=5, size=48, seed=4):
        write_index(tmp_path / content.split, content)
    places, run = {"data__train": str(tmp_path / "train"), "data__eval": None}, tmp_path / "run"
    config = tiny_config(**places)
    cut(config, run, 1, monkeypatch)
    plan = make_plan(config, open_source(config.data, config.seed).train)
    image = open_index(tmp_path / "train").path(int(plan.samples_at(plan.positions(1))[3]))
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UserError, match=image.name):
        train(config, run)
    assert train(tiny_config(**places, data__broken_budget=0.1), run) == 0
    assert result(run)["changed"] == [{"step": 1, "start": 3, "settings": {"data.broken_budget": "0.0 -> 0.1"}}]


def test_how_to_train_longer_is_told_and_works(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(epochs=1, schedule={"name": "constant"}, eval={"bootstrap": 0})
    assert train(config, tmp_path / "run") == 0
    more = tiny_config(epochs=2, schedule={"name": "constant"}, eval={"bootstrap": 0})
    with pytest.raises(
        UserError,
        match=rf"epochs: 1\.0 -> 2\.0.*train 1 epoch more.*keeps.*: epochs=1 model\.weights={tmp_path}/run --run-dir",
    ):
        train(more, tmp_path / "run")
    again = validate({**dump(config), "model": {**dump(config)["model"], "weights": str(tmp_path / "run")}}, "test")
    assert train(again, tmp_path / "more") == 0
    assert "backbone and head of" in "".join(capsys.readouterr())


def test_a_key_that_an_older_folder_lacks_is_what_that_version_did(tiny_config: MakeConfig, tmp_path: Path) -> None:
    open_run(tmp_path, tiny_config())
    file = tmp_path / "config.yaml"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if line.strip().split(":")[0] not in ("tf32", "backend")))
    refuse_other_config(tmp_path, tiny_config())
    with pytest.raises(UserError, match=r"precision\.tf32: False -> True"):
        refuse_other_config(tmp_path, tiny_config(precision={"threads": 1, "tf32": True}))


def test_print_config_says_what_may_change(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from masksup.config.load import to_yaml

    (tmp_path / "run.yaml").write_text(to_yaml(tiny_config()))
    assert main(["train", "--print-config", str(tmp_path / "run.yaml")]) == 0
    lines = {line.split(":")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["data.workers"].endswith("On resume: may change.")
    assert lines["eval.batch"].endswith("On resume: may change, and is told.")
    assert lines["optim.lr"].endswith("On resume: refused.")


def test_threads_are_those_of_the_first_start(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever OMP_NUM_THREADS says later: another number would be another order of sums."""
    config = tiny_config(precision__threads=0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with monkeypatch.context() as stopping:
        stop_after(stopping, 2)
        assert train(config, tmp_path / "run") == STOPPED
    assert read_run_config(tmp_path / "run").precision.threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert train(config, tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["threads"] == 1
