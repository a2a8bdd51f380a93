"""What is recorded and shown of the steps of a run."""

import itertools
import math

import torch
from torch import Tensor

from masksup.base.log import log
from masksup.base.words import figure
from masksup.runtime import heartbeat
from masksup.runtime.progress import Bar, Meter, duration
from masksup.training.due import scoring_is_due
from masksup.training.run import Run


def log_step(run: Run, logs: dict[str, Tensor], lr: float, meter: Meter, bar: Bar) -> None:
    """Record the step's numbers and show them. Collective."""
    step, epoch = run.progress.step, run.plan.epoch_shown(run.progress.step)
    values = _of_step(run, logs)
    values["learning_rate"] = lr
    for group in run.stepper.engine.param_groups:  # the trunk's and the head's differ by their factors
        values[f"learning_rate_{group['name'].partition(',')[0]}"] = group["lr"]
    values |= _pace(run, meter)
    run.record.scalars("train", step, epoch, values)
    heartbeat.note(epoch=epoch, images_per_second=values["images_per_second"])
    run.progress.loss = values["loss"] if math.isfinite(values["loss"]) else None
    note = f"epoch {epoch:.2f}  loss {values['loss']:.4f}  {figure(values['images_per_second'])} images/s"
    bar.note = _live(run, note, values) + ("  scoring ..." if scoring_is_due(run) else "")
    if bar.disable:
        log.info(f"step {step}/{run.plan.total_steps}  {note}{_left(run)}")


def _left(run: Run) -> str:
    """The time to the last step by the pace of the steps before this one, of which the first has none."""
    done = run.progress.step - 1
    if done == 0:
        return ""
    return f"  left {duration((run.plan.total_steps - run.progress.step) * run.progress.seconds / done)}"


def _live(run: Run, note: str, values: dict[str, float]) -> str:
    """What a terminal shows above the bar."""
    best = f"  best mAP {run.progress.best['mAP']:.2f}" if run.progress.best else ""
    memory = f"  {values['memory_mib'] / 1024:.1f} GiB"
    return f"{note}{best}  lr {figure(values['learning_rate'])}{memory}"


def _of_step(run: Run, logs: dict[str, Tensor]) -> dict[str, float]:
    """The step's values: the parts of its micro-batches, added in their order. Collective."""
    parts = read_once({**logs, "skipped_steps": run.stepper.engine.skipped})
    alone = {name: parts.pop(name)[0] for name in ("gradient_norm", "skipped_steps")}
    share = run.plan.share(run.progress.step - 1, run.group.place.rank, run.group.world)
    own = [(index, {name: row[at] for name, row in parts.items()}) for at, index in enumerate(share.indices)]
    values: dict[str, float] = {}
    for _, row in sorted(itertools.chain(*run.group.all([] if share.weightless else own)), key=lambda part: part[0]):
        for name, value in row.items():
            values[name] = values.get(name, 0.0) + value
    return values | alone


def read_once(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    """The numbers of all tensors, for which the device is waited for once. Exact: each fits into 64 bits."""
    numbers = torch.cat([value.detach().double().flatten() for value in tensors.values()]).tolist()
    ends = itertools.accumulate(value.numel() for value in tensors.values())
    return {name: numbers[end - value.numel() : end] for (name, value), end in zip(tensors.items(), ends)}


def _pace(run: Run, meter: Meter) -> dict[str, float]:
    """Speed and waiting since the last line, of all ranks together. Collective where there are several."""
    values, place = meter.read(), run.group.place
    if place.world == 1:
        return values
    own = torch.zeros(len(values), place.world, dtype=torch.float64)
    own[:, place.rank] = torch.tensor(list(values.values()))
    ranks = dict(zip(values, run.group.sum(own).tolist()))
    run.record.of_ranks(run.progress.step, run.plan.epoch_shown(run.progress.step), ranks)
    # The one for whose data all others waited, at the next sum of the gradients.
    straggler = max(range(place.world), key=ranks["data_wait_seconds"].__getitem__)
    waiting = {name: ranks[name][straggler] for name in ("data_wait_seconds", "data_wait_share")}
    return values | waiting | {
        "images_per_second": sum(ranks["images_per_second"]), "data_wait_straggler": float(straggler),
        "memory_mib": max(ranks["memory_mib"]),
    }  # fmt: skip
