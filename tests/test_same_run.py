"""tools/same_run.py: equal runs are equal, one changed bit anywhere is found, and what is left out is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import stop_after

from masksup.config.messages import schema_keys
from masksup.config.on_resume import on_resume
from masksup.config.schema import Config, OnResume
from masksup.exits import STOPPED
from masksup.runtime.checkpoint import State, list_checkpoints, read_checkpoint, write_checkpoint
from masksup.training.train import train
from tools import same_run

MakeConfig = Callable[..., Config]
SAVING = {"every_steps": 2, "keep": 9}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> Path:
    """`one` and `two` are runs of the same configuration, made by two trainings; `cut` was stopped and resumed."""
    folder = tmp_path_factory.mktemp("same")
    torch.set_num_threads(1)
    for name in ("one", "two"):
        assert train(tiny_config(checkpoint=SAVING), folder / name) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3)
        assert train(tiny_config(checkpoint=SAVING), folder / "cut") == STOPPED
    assert train(tiny_config(checkpoint=SAVING, data__workers=1), folder / "cut") == 0
    return folder


@pytest.fixture
def other(runs: Path, tmp_path: Path) -> Path:
    """A copy of `two`, to be changed."""
    return shutil.copytree(runs / "two", tmp_path / "other", symlinks=True)


def save_again(run: Path, change: Callable[[State], object]) -> None:
    """The newest checkpoint with other content, as whole as before."""
    newest = list_checkpoints(run / "checkpoints")[0]
    state = read_checkpoint(newest)
    change(state)
    shutil.rmtree(newest)
    write_checkpoint(newest.parent, newest.name, state)


def flip_lowest_bit(state: State) -> None:
    state.tensors["model/head.fc.weight"].view(torch.int32).view(-1)[5] ^= 1


def as_negative_zero(state: State) -> None:
    """Equal as a number, but not in its bits."""
    zero = next(value for value in state.tensors.values() if value.is_floating_point() and (value == 0).any())
    zero.view(-1)[int((zero.view(-1) == 0).nonzero()[0])] = -0.0


def of_another_type(state: State) -> None:
    state.tensors["model/head.fc.bias"] = state.tensors["model/head.fc.bias"].view(torch.int32)


def of_a_rank(state: State) -> None:
    state.tensors["ranks/1/model/statistic"] = torch.ones(3)


def with_json(file: Path, change: Callable[[Any], object]) -> None:
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))


def with_rows(run: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    change(rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_text(file: Path, old: str, new: str) -> None:
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))


def result_without_sha256(tree: Any) -> None:
    del tree["best"]["eval"]["protocol"]["checkpoint_sha256"]


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (lambda run: save_again(run, flip_lowest_bit), "state.safetensors model/head.fc.weight: float32 [12, "),
    "a sign of zero": (lambda run: save_again(run, as_negative_zero), "state.safetensors "),
    "a type": (lambda run: save_again(run, of_another_type), "state.safetensors model/head.fc.bias: float32 [12] "),
    "a tensor of a rank": (
        lambda run: save_again(run, of_a_rank), "state.safetensors ranks/1/model/statistic: nothing | float32 [3]",
    ),
    "a fact of the state": (
        lambda run: save_again(run, lambda state: state.meta["at"].update(scored_step=3)),
        "state.json at.scored_step: 7 | 3",
    ),
    "an unknown fact of the state": (
        lambda run: save_again(run, lambda state: state.meta.update(new=[])), "state.json new: nothing | []",
    ),
    "a metric": (lambda run: with_rows(run, lambda rows: rows[2].update(loss=0.5)), "metrics.jsonl train.3.loss: 0."),
    "an unknown metric": (
        lambda run: with_rows(run, lambda rows: rows[2].update(new=1)), "metrics.jsonl train.3.new: nothing | 1",
    ),
    "a kind of number": (
        lambda run: with_rows(run, lambda rows: rows[2].update(skipped_steps=0)),
        "metrics.jsonl train.3.skipped_steps: 0.0 | 0",
    ),
    "a row scored again with other numbers": (
        lambda run: with_rows(run, lambda rows: rows.append({"kind": "eval", "step": 4, "mAP": 1.5})),
        "metrics.jsonl eval.4.again 1.mAP: nothing | 1.5",
    ),
    "an unknown score": (
        lambda run: with_json(run / "result.json", lambda tree: tree["best"]["eval"]["protocol"].update(new=None)),
        "result.json best.eval.protocol.new: nothing | null",
    ),
    "the sha256 of the best": (
        lambda run: with_json(run / "result.json", result_without_sha256),
        "result.json best.eval.protocol.checkpoint_sha256: ",
    ),
    "no result": (lambda run: (run / "result.json").unlink(), "result.json: only in A"),
    "a setting": (
        lambda run: with_text(run / "config.yaml", "flip: 0.5", "flip: 0.25"), "config.yaml augment.flip: 0.5 | 0.25",
    ),
    "a setting that is not there": (
        lambda run: with_text(run / "config.yaml", "  tf32: false\n", ""),
        "config.yaml precision.tf32: false | nothing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_one_change_is_found_and_nothing_else(change: str, runs: Path, other: Path) -> None:
    act, expected = CHANGES[change]
    act(other)
    found = same_run.differences(runs / "one", other)
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_two_trainings_and_one_that_was_resumed_are_the_same_run(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("two", "cut"):
        assert same_run.main([str(runs / "one"), str(runs / name)]) == 0
        told = capsys.readouterr().out
        assert "\nthe same run, bit for bit\n" in told
    assert f"B: {runs / 'cut'}, step-000000007-a02\n" in told
    assert "  history of the starts: metrics.jsonl event\n" in told
    assert "  number of ranks: result.json ranks\n" in told
    tensors = len(read_checkpoint(list_checkpoints(runs / "one" / "checkpoints")[0]).tensors)
    assert f" {tensors} of state.safetensors" in told


def test_what_is_left_out_may_differ(runs: Path, other: Path) -> None:
    def changed(state: State) -> None:
        state.meta.update(ranks=3, name="other")
        state.meta["at"].update(seconds=1e9)
        state.meta["config"]["data"].update(workers=7, train="elsewhere")

    save_again(other, changed)
    with_text(other / "config.yaml", "workers: 0", "workers: 7")
    with_json(other / "result.json", lambda tree: tree.update(ranks=3, seconds=1e9, attempts=9, run="other"))
    ranks = {"kind": "ranks", "step": 3, "memory_mib": [1.0, 2.0]}
    with_rows(other, lambda rows: (rows[2].update(step_seconds=9.0, data_wait_straggler=1.0), rows.append(ranks)))
    assert same_run.differences(runs / "one", other) == []


def test_a_row_that_a_later_start_wrote_again_counts_once(runs: Path, other: Path) -> None:
    def again(rows: list[dict[str, Any]]) -> None:
        rows.append(next(row for row in rows if row["kind"] == "eval"))
        rows.append({**rows[2], "step_seconds": 9.0})

    with_rows(other, again)
    assert same_run.differences(runs / "one", other) == []


def test_settings_that_are_left_out_are_those_that_do_not_change_a_run() -> None:
    free = {key for key in schema_keys() if on_resume(key) in (OnResume.FREE, OnResume.SAME_INDEX)}
    assert {key for _, file, keys in same_run.LEFT_OUT if file == same_run.CONFIG for key in keys} == free


def test_runs_as_they_were_after_a_step(runs: Path, other: Path) -> None:
    with_rows(other, lambda rows: next(row for row in rows if row["step"] == 6).update(loss=0.5))
    save_again(other, flip_lowest_bit)
    with_json(other / "result.json", lambda tree: tree.update(steps=8))
    assert same_run.differences(runs / "one", other, step=4) == []
    assert len(same_run.differences(runs / "one", other, step=6)) == 1
    assert len(same_run.differences(runs / "one", other)) == 3


def test_another_run_is_told_by_its_first_differences(
    runs: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_text(other / "config.yaml", "seed: 5", "seed: 6")
    save_again(other, lambda state: [value.add_(1) for value in state.tensors.values()])
    assert same_run.main([str(runs / "one"), str(other)]) == 1
    lines = capsys.readouterr().out.splitlines()
    total = 1 + len(read_checkpoint(list_checkpoints(other / "checkpoints")[0]).tensors)
    assert lines[2] == f"different: {total:,} differences (A | B)"
    assert lines[3] == "  config.yaml seed: 5 | 6"
    assert lines[23] == f"  and {total - 20:,} more"


def damage(run: Path) -> None:
    file = list_checkpoints(run / "checkpoints")[0] / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no run": (lambda run: (run / "config.yaml").unlink(), "not a run folder: found no config.yaml in it"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "checkpoints"), "found no checkpoint in it"),
    "damaged checkpoint": (damage, "state.safetensors: damaged: its sha256 is not the one in SHA256SUMS"),
    "no record": (lambda run: (run / "metrics.jsonl").unlink(), "found no metrics.jsonl in it"),
    "damaged result": (lambda run: (run / "result.json").write_text("{"), "result.json: cannot be read (malformed"),
    "damaged settings": (lambda run: (run / "config.yaml").write_text("a: ["), "config.yaml: not valid YAML"),
    "nothing there": (shutil.rmtree, "not a run folder"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_one_line(wrong: str, runs: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    act, expected = WRONG[wrong]
    act(other)
    for pair in ((runs / "one", other), (other, runs / "one")):
        assert same_run.main([*map(str, pair)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"same_run: {other}")
        assert expected in err
        assert err.count("\n") == 1


def test_the_same_folder_and_an_unknown_step_are_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert same_run.main([str(runs / "one"), str(runs / "two" / ".." / "one")]) == 2
    assert "found the same folder twice" in capsys.readouterr().err
    assert same_run.main([str(runs / "one"), str(runs / "two"), "--step", "5"]) == 2
    assert "found no checkpoint of step 5, expected one of 2, 4, 6, 7\n" in capsys.readouterr().err
