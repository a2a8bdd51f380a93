"""What a start of a run says first."""

import json
import os
import shlex

from masksup.base import clock
from masksup.base.log import log
from masksup.base.words import counted
from masksup.config.auto import adds_as_tree
from masksup.config.schema import Data
from masksup.data.loader import workers_of
from masksup.engine.parallel.tree import most_gradients
from masksup.training.caution import cautions
from masksup.training.run import Run


def introduce(run: Run, told: list[str]) -> None:
    """Say what is trained, on what and how, with what was `told` while it was built, and begin the record."""
    config, group = run.config, run.group
    trained = sum(p.numel() for p in run.whole.parameters() if p.requires_grad)
    log.info(
        f"run folder: {run.folder.path}    watch it: tensorboard --logdir {shlex.quote(str(run.folder.path.parent))}"
    )
    log.info(
        f"training on {run.source.train.title}: {counted(len(run.source.train), 'sample')}, "
        f"{counted(len(run.source.classes), 'class')}"
    )
    for scored in (run.source.eval, run.source.test):
        if scored is not None:
            log.info(f"scoring on {scored.title}: {counted(len(scored), 'sample')}")
    log.info(
        f"{config.model.backbone} + {config.model.head.name}, {config.model.size} px, {counted(trained, 'parameter')} "
        f"trained; {run.device.type}, {str(run.dtype).removeprefix('torch.')}, "
        f"{_ranks(group.world)}{counted(run.threads, 'thread')}, {_loader(config.data)}"
    )
    if adds_as_tree(config) and config.optim.name != "lbfgs":
        count = -(-run.plan.global_batch // run.plan.micro_batch)
        most = most_gradients(count, group.world)
        if most > 1:
            size = f"{4 * trained / 2**20:,.1f} MiB"
            log.info(
                f"gradients: a step adds up {counted(count, 'micro-batch')}, in at most {most} x {size} of memory "
                "(parallel.sum)"
            )
    if not adds_as_tree(config) and group.world > 1:
        log.info("gradients: the library adds them, so another number of ranks gives other last bits (parallel.sum)")
    for line in told:
        log.info(line)
    if config.model.batchnorm == "frozen":
        log.info("batch norm: training leaves its statistics as they came with the weights (model.batchnorm)")
    if run.progress.step:
        log.info(f"going on from step {run.progress.step} of {run.plan.total_steps} (start {run.folder.start})")
    else:
        for line in cautions(run) if group.place.first else ():  # other ranks would say the same
            log.warning(line)
        swept = os.environ.get("MASKSUP_HPARAMS", "")  # by the launcher of a sweep: the keys that tell its runs apart
        run.record.hyperparameters(config, swept.split(","))
    if broke := os.environ.get("MASKSUP_BROKE"):  # by a keeper that has forked the ranks anew
        since, why = json.loads(broke)
        run.record.event(run.progress.step, f"recovered within {clock.now() - since:.1f} s: {why}")
        log.info(f"recovered: {why}")
    # A launcher knows after what a run goes on: preempted, timeout, lost, ...
    run.record.begin(run.progress.step, run.folder.start, os.environ.get("MASKSUP_RESUMED_AFTER") or None)


def _loader(data: Data) -> str:
    workers = workers_of(data)
    if not workers:
        return "images loaded in between"
    return counted(workers, "loader process" if data.loader == "processes" else "loader thread")


def _ranks(world: int) -> str:
    return f"{world} ranks of " if world > 1 else ""
