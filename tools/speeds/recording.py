"""What curves, rows, lines and pictures cost a run of short steps, and what a save holds it up."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index
from masksup.engine.step import Stepper
from masksup.runtime.checkpoint import snapshot
from masksup.runtime.metrics_log import Record
from masksup.training import loop_log, score_log, score_run, train
from tools.benchmark_saving import measure
from tools.speeds.measured import Figure, Setting, timed

_STEP = 0.02  # s
_METHODS = ("scalars", "of_ranks", "event", "mark", "beside", "draw", "flush", "begin", "hyperparameters")


def recording(setting: Setting) -> Iterator[Figure]:
    """The share of a run of 20 ms steps, an evaluation every 15 of them, in which its training thread records.

    The runs are real, but for steps that are filled up with sleep to 20 ms.
    """
    meters, seconds = [], (2 if setting.tiny else 19) * 15 * _STEP
    for number in range(setting.rounds):
        meters.append(_Meter())
        _train(_config(setting), setting.folder / f"run {number}", meters[-1])
    # Opening the run and its last scores are no steps: the share is of the steps and of what is recorded alone.
    for by, spent in (("the clock", [sum(meter.spent.values()) for meter in meters]),
                      ("processor time", [meter.cpu for meter in meters])):  # fmt: skip
        share = statistics.median(100 * found / (seconds + found) for found in spent)
        yield Figure(f"records and pictures in a run of 20 ms steps, by {by} of its thread", share, "%",
                     ("at most", 5.0), None, {"milliseconds": _parts(meters[-1])})  # fmt: skip


def saving(setting: Setting) -> Iterator[Figure]:
    """What a save of 300 MB every 15 minutes costs, and what a single one holds the training up."""
    megabytes, saves = (4, 1) if setting.tiny else (300, 2 * setting.rounds)
    stalls, alone, beside = measure(setting.folder, megabytes, 0.01 if setting.tiny else 0.3, saves)
    slower = max(0.0, (statistics.median(beside) if beside else 0.0) - statistics.median(alone))
    stall = statistics.median(stalls)
    cost = 100 * (stall + slower * len(beside) / saves) / (15 * 60)
    used = timed(partial(snapshot, {str(row): torch.zeros(2**18) for row in range(megabytes)}, {})).cpu
    milliseconds = {
        "stall": stall, "worst stall": max(stalls), "copy, by processor time": used,
        "steps slower": slower * len(beside) / saves,
    }  # fmt: skip
    facts = {"milliseconds": {name: round(1000 * seconds, 1) for name, seconds in milliseconds.items()}}
    yield Figure(f"a save of {megabytes} MB every 15 minutes", cost, "%", ("at most", 1.0), None, facts)


def _config(setting: Setting) -> Config:
    steps, epochs = 15, 2 if setting.tiny else 19
    shapes = setting.folder / "shapes"
    if not shapes.exists():
        for content in prepare_shapes(setting.folder / "root", train=16 * steps, val=64, test=8, size=48, seed=0):
            write_index(shapes / content.split, content)
    return validate(
        {
            "data": {"train": str(shapes / "train"), "eval": str(shapes / "val"), "workers": 0},
            "model": {"backbone": "test_resnet", "size": 32}, "epochs": epochs,
            "batch": {"global": 16}, "precision": {"threads": 1}, "eval": {"bootstrap": 0},
        },
        "benchmark",
    )  # fmt: skip


def _parts(meter: "_Meter") -> dict[str, float]:
    return {name: round(1000 * seconds, 1) for name, seconds in sorted(meter.spent.items())}


class _Meter:
    """Seconds that the training thread spends in the functions given to it, the outermost of them alone."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.cpu = 0.0
        self.on = False
        self._depth, self._thread = 0, threading.get_ident()

    def over(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def metered(*args: Any, **options: Any) -> Any:
            if not self.on or self._depth or threading.get_ident() != self._thread:
                return function(*args, **options)
            self._depth, began, used = 1, time.perf_counter(), time.thread_time()
            try:
                return function(*args, **options)
            finally:
                self._depth = 0
                self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began
                self.cpu += time.thread_time() - used

        return metered


def _train(config: Config, folder: Path, meter: _Meter) -> None:
    step = Stepper.step

    def filled(*args: Any, **options: Any) -> Any:
        began, meter.on = time.perf_counter(), True
        found = step(*args, **options)
        time.sleep(max(0.0, _STEP - (time.perf_counter() - began)))
        return found

    def finished(*args: Any, **options: Any) -> Any:
        meter.on = False
        return score_run.finish(*args, **options)

    own: dict[str, Any] = {name: meter.over(name, getattr(Record, name)) for name in _METHODS}
    with (
        patch.multiple(Record, **own),
        patch.object(Stepper, "step", filled),
        patch.object(train, "finish", finished),
        patch.object(train, "log_step", meter.over("lines", loop_log.log_step)),
        patch.object(score_run, "record_scores", meter.over("scores", score_log.record_scores)),
    ):
        train.train(config, folder)
