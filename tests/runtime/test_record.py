"""metrics.jsonl and TensorBoard hold the same numbers, and a resumed run continues both without overlap."""

import json
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor

from masksup.base.json_lines import Appender, read_lines
from masksup.base.log import start_logging
from masksup.config.schema import Config
from masksup.evaluation.scores import evaluate
from masksup.runtime.checkpoint import snapshot
from masksup.runtime.metrics_log import Record
from masksup.runtime.metrics_rows import read_rows
from masksup.runtime.saver import Saver
from masksup.training.train import train

MakeConfig = Callable[..., Config]


def accumulated(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    events.Reload()
    return events


def test_points_of_a_start_that_was_cut_off_are_replaced(tmp_path: Path) -> None:
    first = Record(tmp_path)
    first.start(0)
    for step in range(1, 6):
        first.scalars("train", step, step / 10, {"loss": float(step)})
    first.event(5, "a remark")
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6, "lo')  # the kill fell into a write
    time.sleep(1.1)  # event files are named by the second and read in that order
    second = Record(tmp_path)
    second.start(2)
    for step in range(3, 8):
        second.scalars("train", step, step / 10, {"loss": step + 100.0})
    second.close()
    rows = [(row["step"], row["loss"]) for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert rows == [(1, 1.0), (2, 2.0), (3, 103.0), (4, 104.0), (5, 105.0), (6, 106.0), (7, 107.0)]
    points = [(event.step, event.value) for event in accumulated(tmp_path).Scalars("train/loss")]
    assert points == rows
    assert any(row["kind"] == "event" for row in read_rows(tmp_path / "metrics.jsonl"))


@settings(max_examples=int(os.environ.get("MASKSUP_MUTATIONS", "200")) // 2, deadline=None)
@given(data=st.data())
def test_damage_costs_no_row_but_the_damaged(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("record")
    rows = [{"kind": "train", "step": step, "loss": step / 7} for step in range(1, 9)]
    lines = [json.dumps(row).encode() for row in rows]
    victims = data.draw(st.sets(st.integers(0, 7), min_size=1, max_size=4))
    damaged = list(lines)
    for victim in victims:
        at = data.draw(st.integers(0, len(lines[victim]) - 1))
        kind = data.draw(st.sampled_from(["cut", "zeros", "junk"]))
        junk = data.draw(st.binary(min_size=1, max_size=9)).replace(b"\n", b"") + b"\xff"
        damaged[victim] = lines[victim][:at] + {"cut": b"", "zeros": bytes(40), "junk": junk}[kind]
    content = b"\n".join(damaged) + b"\n" * data.draw(st.integers(0, 1))
    (folder / "metrics.jsonl").write_bytes(content)
    kept = [row for number, row in enumerate(rows) if number not in victims]
    assert read_rows(folder / "metrics.jsonl") == kept
    record = Record(folder)
    record.start(20)
    record.event(20, "resumed")
    record.close()
    assert read_rows(folder / "metrics.jsonl")[:-1] == kept
    found = content.removesuffix(b"\n").split(b"\n")  # a last line that is empty and has no end is none
    aside = folder / "metrics.jsonl.damaged"
    expected = b"".join(line + b"\n" for line in found if line not in lines)
    assert (aside.read_bytes() if aside.exists() else b"") == expected


def test_damaged_lines_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging()
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\nx\n{"kind": 3, "step": 2}\n{"kind": "ev')
    Record(tmp_path).start(5)
    assert "metrics.jsonl: lines 2, 3, 4 are damaged" in capsys.readouterr().out


def test_what_a_full_disk_refused_is_written_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a disk that is really full for a while: every line and every point is there at the end, and one alarm."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=256k tmpfs {small}"):
        pytest.skip("needs to mount a small file system")
    try:
        start_logging()
        record = Record(small)
        record.start(0)
        for step in range(1, 301):
            if step == 30:
                with suppress(OSError), (small / "filler").open("wb") as file:
                    while file.write(bytes(512)):
                        file.flush()
            if step == 270:
                (small / "filler").unlink()
            record.scalars("train", step, step / 10, {"loss": float(step)})
            if step % 20 == 0:
                record.flush()
        record.close()
        assert [row["step"] for row in read_rows(small / "metrics.jsonl")] == list(range(1, 301))
        assert {event.step for event in accumulated(small).Scalars("train/loss")} == set(range(1, 301))
    finally:
        os.system(f"umount {small}")
    told = capsys.readouterr()
    assert told.out.count("ALARM") == 1
    assert "could be written again" in told.out
    assert "Traceback" not in told.err


def test_a_write_that_is_cut_short_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, draw = os.write, random.Random(3)

    def reluctant(descriptor: int, content: bytes) -> int:
        if draw.random() < 0.5:
            raise OSError(28, "No space left on device")
        return real(descriptor, content[: draw.randrange(1, 30)])

    lines = Appender(tmp_path / "rows")
    monkeypatch.setattr("masksup.base.json_lines.os.write", reluctant)
    for number in range(100):
        with suppress(OSError):
            lines.append({"number": number})
    monkeypatch.undo()
    lines.close()
    assert [row["number"] for row in read_lines(tmp_path / "rows")] == list(range(100))


def test_interruptions_are_stairs_beside_the_curves_and_no_point_comes_twice(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import masksup.engine.step as module

    config = tiny_config(epochs=4, checkpoint={"every_steps": 2}, data__eval=None)  # scoring would flush, too
    real = module.Stepper.step

    def trained_until(last: int, after: str) -> None:
        """A start, in a process that is gone without a word once it has done the step `last`."""
        child = os.fork()
        if child == 0:
            try:
                monkeypatch.setenv("MASKSUP_RESUMED_AFTER", after)

                def step(stepper: module.Stepper, batches: list[dict[str, Tensor]], number: int, *more: Any) -> Any:
                    if number == last:
                        os._exit(9)
                    return real(stepper, batches, number, *more)

                monkeypatch.setattr(module.Stepper, "step", step)
                os._exit(train(config, tmp_path))
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (9 if last < 13 else 0)
        time.sleep(1.1)  # event files are named by the second and read in that order

    for last, after in ((5, ""), (9, "preempted"), (11, "timeout"), (11, "preempted"), (13, "")):
        trained_until(last, after)

    told = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "event"][:-1]
    assert [row.get("after") for row in told] == ["preempted", "timeout", "preempted", "resumed"]
    begun = [0, *(row["step"] for row in told)]
    assert 2 <= begun[1] <= begun[2] - 2 <= begun[3] - 2
    events = accumulated(tmp_path)
    points = [(event.step, event.value) for event in events.Scalars("events/start")]
    steps = [step for step, _ in points]
    assert steps == sorted(set(steps))
    assert {1, 13, *begun[1:], *(step + 1 for step in begun)} <= {*steps}, "each step up where a start began"
    assert all(value == max(n for n, first in enumerate(begun, 1) if first < step) for step, value in points)
    preempted = [(event.step, event.value) for event in events.Scalars("events/preempted")]
    assert preempted[0] == (begun[1] + 1, 1.0)
    assert preempted[-1] == (13, 2.0)
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith("events/")} == {
        "events/start", "events/preempted", "events/timeout", "events/resumed",
    }  # fmt: skip
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 14)), "no hole, nothing twice"


def test_runs_of_a_sweep_declare_what_tells_them_apart(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKSUP_HPARAMS", "model.head.name,optim.bias_factor")
    assert train(tiny_config(epochs=1, augment__fill=[0, 0, 9]), tmp_path) == 0
    content = accumulated(tmp_path).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    declared = HParamsPluginData.FromString(content).session_start_info.hparams
    told = {key: value.string_value or value.number_value for key, value in declared.items()}
    expected = {
        "model.head.name": "linear", "optim.bias_factor": 1.0, "seed": 5, "epochs": 1, "optim.name": "adamw",
        "optim.lr": 0.003, "augment.fill": "[0, 0, 9]",
    }  # fmt: skip
    assert told | expected == told
    assert not {"optim.weight_decay", "method.name", "loss.name", "augment.interpolation", "ema.warmup"} & told.keys()


def test_a_run_shows_everything_in_tensorboard(tiny_config: MakeConfig, tmp_path: Path) -> None:
    log = {"every_steps": 1, "images": 3, "pr_curves": True}
    assert train(tiny_config(log=log, optim__head_factor=10), tmp_path) == 0
    events = accumulated(tmp_path)
    tags = events.Tags()
    for name in ("loss", "learning_rate", "gradient_norm", "images_per_second", "data_wait_share", "memory_mib"):
        assert f"train/{name}" in tags["scalars"], name
    first = sorted({tag.partition("/")[0] for tag in tags["scalars"]})[0]
    assert {tag for tag in tags["scalars"] if tag.startswith(f"{first}/")} == {
        "0_overview/train_loss",
        "0_overview/eval_mAP",
    }
    for again, tag in (("0_overview/train_loss", "train/loss"), ("0_overview/eval_mAP", "eval/mAP")):
        assert [(e.step, e.value) for e in events.Scalars(again)] == [(e.step, e.value) for e in events.Scalars(tag)]
    assert len([tag for tag in tags["scalars"] if tag.startswith("AP/")]) == 11  # the twelfth class has no positive
    assert len([tag for tag in tags["tensors"] if tag.startswith("pr/")]) == 11
    assert "predictions" in tags["images"]
    rates = [events.Scalars(f"train/learning_rate_{part}")[2].value for part in ("backbone", "head")]
    assert rates[1] == pytest.approx(10 * rates[0])
    plugins = events.summary_metadata
    assert any("hparams" in str(meta.plugin_data.plugin_name) for meta in plugins.values())
    rows = read_rows(tmp_path / "metrics.jsonl")
    for kind, name in (("train", "loss"), ("eval", "mAP"), ("train", "learning_rate")):
        ours = [(row["step"], np.float32(row[name])) for row in rows if row["kind"] == kind]
        assert [(e.step, np.float32(e.value)) for e in events.Scalars(f"{kind}/{name}")] == ours


def test_a_value_that_is_not_finite_is_valid_json(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.start(0)
    record.scalars("train", 1, 0.1, {"loss": float("nan"), "gradient_norm": float("inf")})
    record.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [
        {"kind": "train", "step": 1, "epoch": 0.1, "loss": None, "gradient_norm": None}
    ]


def test_a_start_that_died_before_its_first_checkpoint_is_hidden(tmp_path: Path) -> None:
    for start in (1, 2):
        record = Record(tmp_path)
        record.start(0)
        for step in range(1, 5 + start):
            record.scalars("train", step, step / 10, {"loss": float(start)})
        record.close()
        time.sleep(1.1)
    points = [(event.step, event.value) for event in accumulated(tmp_path).Scalars("train/loss")]
    assert points == [(step, 2.0) for step in range(1, 7)]


def test_a_disk_that_refuses_the_record_is_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging()
    record = Record(tmp_path)
    record.start(0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("masksup.base.json_lines.os.write", full)
    for step in (1, 2, 3):
        record.scalars("train", step, 0.1, {"loss": 1.0})
    record.flush()
    assert capsys.readouterr().out.count("ALARM") == 1


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[1]", b"5", b"{}"])
def test_rows_behind_a_damaged_one_are_read(damage: bytes, tmp_path: Path) -> None:
    good = b'{"kind": "train", "step": 1, "loss": 2.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + damage + b"\n" + good)
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 2


def test_pictures_are_drawn_beside_the_training_when_the_best_improves_and_at_the_end(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five evaluations, of which the score of the third alone is no better than the one before."""
    scores: Iterator[float] = iter([])
    drawn: list[tuple[int, bool]] = []

    def scored(*args: Any, **options: Any) -> dict[str, Any]:
        return evaluate(*args, **options) | {"mAP": next(scores, 0.0)}

    def image(self: Record, tag: str, step: int, picture: Any) -> None:
        drawn.append((step, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr("masksup.training.score_run.evaluate", scored)
    monkeypatch.setattr(Record, "image", image)
    for minutes, expected in ((0.0, [4, 7, 13, 16]), (60.0, [4, 16])):
        scores = iter([1.0, 2.0, 2.0, 3.0, 2.5])
        drawn.clear()
        config = tiny_config(epochs=5, log__images=2, log__picture_minutes=minutes)
        assert train(config, tmp_path / f"run{minutes:g}") == 0
        assert drawn == [(step, False) for step in expected]


def test_the_training_does_not_wait_for_tensorboard_but_a_checkpoint_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, writers, free = Record(tmp_path), list[threading.Thread](), threading.Event()
    record.start(0)

    def slow(*_: Any) -> None:
        writers.append(threading.current_thread())
        free.wait(30)

    monkeypatch.setattr(record.tensorboard, "add_scalar", slow)
    record.scalars("train", 1, 0.1, {"loss": 1.0})
    saver = Saver(tmp_path / "checkpoints", start=1, keep=2)
    state = snapshot({"model/a": torch.zeros(3)}, {"at": {}})
    saver.save(state, saver.name(1), None, record.flushing())
    assert not saver.wait(0.2), "it waits for the points before it"
    assert not (tmp_path / "checkpoints").exists()
    free.set()
    assert saver.wait()
    assert (tmp_path / "checkpoints" / saver.name(1)).is_dir()
    assert saver.take_problem() is None
    record.close()
    assert writers
    assert threading.current_thread() not in writers
