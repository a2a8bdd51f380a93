"""A step of a run once more, bit for bit, from the newest checkpoint before it; the run folder stays as it is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masksup.base.log import log
from masksup.base.place import ALONE
from masksup.base.words import counted
from masksup.config.auto import adds_as_tree
from masksup.config.load import load_config
from masksup.data.loader import train_loader, workers_of
from masksup.data.split import train_dataset
from masksup.engine.feature_batches import feature_batches
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.schedule import rates_at
from masksup.engine.state import of_this_rank, refuse_other_model, restore
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.replay.watch import MicroBatch, Watch
from masksup.runtime.checkpoint import Damaged, State, list_checkpoints, read_checkpoint, step_of
from masksup.runtime.metrics_rows import read_rows
from masksup.runtime.ranks import Group
from masksup.runtime.run_folder import as_in_folder
from masksup.training.adapted import put_base
from masksup.training.frozen import open_features
from masksup.training.open import build
from masksup.training.run import Built

Batches = Iterator[list[dict[str, Tensor]]]


@dataclass
class Replayed:
    """What a step was."""

    step: int
    """From 1, as in metrics.jsonl: the state after it is that of `step-N`."""
    steps: int
    """Of the whole run."""
    began: str
    """The checkpoint that it was reached from, or `the start`."""
    redone: int
    """Steps between that and this one."""
    loss: float
    gradient_norm: float
    learning_rate: float
    recorded: dict[str, Any] | None
    """The row of metrics.jsonl, if the step has one."""
    micro_batches: list[MicroBatch] = field(default_factory=list)

    @property
    def applied(self) -> bool:
        """Whether the gradient was finite."""
        return math.isfinite(self.gradient_norm)

    @property
    def same(self) -> bool | None:
        """Whether loss and gradient norm are those on record, bit for bit; None: they are not on record."""
        if self.recorded is None:
            return None
        return all(_same(getattr(self, key), self.recorded.get(key)) for key in ("loss", "gradient_norm"))


def _same(found: float, recorded: Any) -> bool:
    """The record holds null for what is not finite."""
    return found == recorded if math.isfinite(found) else recorded is None


def replay(run_dir: Path, step: int) -> Replayed:
    """Execute step number `step` (from 1) of the run in `run_dir` again. UserError where it has no such step."""
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir}: found no config.yaml, expected a run folder")
    config = as_in_folder(run_dir, load_config(run_dir / "config.yaml")[0])
    if config.optim.name == "lbfgs":
        raise UserError(f"{run_dir}: optim.name: found lbfgs, which solves the head at once; expected a run with steps")
    name, saved = _newest_before(run_dir / "checkpoints", step)
    built, _ = build(config, run_dir, saved is not None, ALONE)
    if not 1 <= step <= built.plan.total_steps:
        raise UserError(f"--step: found {step}, expected 1 to {built.plan.total_steps}, the steps of {run_dir}")
    rows = _rows(run_dir)
    if step > max([*rows, *(step_of(path) for path in list_checkpoints(run_dir / "checkpoints"))], default=0):
        log.warning(
            f"step {step} is on no record: where the run ended before it, it is trained here for the first time"
        )
    engine = make_engine(built.config, built.method.train(), built.device, built.dtype, ALONE)
    stepper = Stepper(engine, built.device, config.seed)
    done = 0
    if saved is not None:
        _put_back(run_dir, name, saved, built, stepper)
        done = int(saved.meta["at"]["step"])
    if done < step - 1:
        log.info(f"from {name}: {counted(step - 1 - done, 'step')} to do again before step {step}")
    batches = _batches(run_dir, built, done)
    for at in range(done, step - 1):
        _step(built, stepper, next(batches), at)
    micro_batches = next(batches)
    ids = [[built.source.train.index.id(int(sample)) for sample in batch["sample"]] for batch in micro_batches]
    with Watch(stepper, ids) as watch:
        lr, logs = _step(built, stepper, micro_batches, step - 1)
    row = rows.get(step)
    return Replayed(
        step, built.plan.total_steps, name, step - 1 - done, _loss(logs["loss"], row), float(logs["gradient_norm"]),
        lr, row, watch.micro_batches,
    )  # fmt: skip


def _loss(parts_M: Tensor, row: dict[str, Any] | None) -> float:
    """The parts in the order in which the record adds them: in float64, early versions in float32."""
    loss, rounded = 0.0, torch.zeros((), dtype=torch.float32)
    for part in parts_M.cpu():
        loss, rounded = loss + float(part), rounded + part
    return float(rounded) if row is not None and row.get("loss") == float(rounded) else loss


def _newest_before(folder: Path, step: int) -> tuple[str, State | None]:
    """The newest whole checkpoint from before a step, with its name; the start of the run where there is none."""
    for path in list_checkpoints(folder):
        if step_of(path) < step:
            try:
                return path.name, read_checkpoint(path)
            except Damaged as error:
                log.warning(f"{error}; using the one before it")
    return "the start", None


def _put_back(run_dir: Path, name: str, saved: State, built: Built, stepper: Stepper) -> None:
    if saved.meta["hashes"] != built.source.hashes:
        raise UserError(f"{run_dir}: the indexes changed since this run was started; its steps cannot be repeated")
    ranks = saved.meta.get("ranks", 1)
    if not adds_as_tree(built.config) and ranks != 1:
        log.warning(f"{run_dir}: {ranks} ranks added by parallel.sum=ring; one process adds in another order")
    whole = built.network if built.config.model.lora.rank else built.scored_method.network
    refuse_other_model(whole.kept_state(), saved.part("model"), name)
    restore(of_this_rank(saved, ALONE), stepper, None)
    if built.config.model.lora.rank:
        put_base(run_dir, saved.meta["at"]["base_sha256"], built.network.backbone)


def _batches(run_dir: Path, built: Built, done: int) -> Batches:
    config, part = built.config, built.source.train
    if config.model.frozen:
        kept = open_features(built, run_dir, Group(ALONE, built.config.parallel))
        return feature_batches(kept["train"], part, built.plan, done, config)
    return train_loader(train_dataset(config, part, built.plan), done, workers_of(config.data), kind=config.data.loader)


def _step(
    built: Built, stepper: Stepper, micro_batches: list[dict[str, Tensor]], at: int
) -> tuple[float, dict[str, Tensor]]:
    """As the loop of a training does it: the learning rate, and what the step logs."""
    lr, momentum = rates_at(built.config, built.plan, at)
    set_rates(stepper.engine.param_groups, lr, momentum)
    return lr, stepper.step(micro_batches, at, at / built.plan.total_steps, built.plan.share(at, 0, 1))


def _rows(run_dir: Path) -> dict[int, dict[str, Any]]:
    """What metrics.jsonl says of each step that it has."""
    file = run_dir / "metrics.jsonl"
    return {row["step"]: row for row in (read_rows(file) if file.is_file() else []) if row["kind"] == "train"}
