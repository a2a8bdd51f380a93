"""The early end of a run whose score improves no more (`stop.patience_epochs`).

It is a function of the scores so far, which every rank has from rank 0 and every checkpoint keeps: so all ranks agree,
and a run that is killed after the evaluation ends at the same step when it goes on.
"""

from typing import Any

from masksup.base.log import log
from masksup.engine.schedule import rate_factor
from masksup.training.run import Run


def ended(run: Run) -> bool:
    """Whether no step follows: the plan is through, or patience is."""
    return run.progress.step >= run.plan.total_steps or stopped_early(run) is not None


def stopped_early(run: Run) -> dict[str, Any] | None:
    """Where and why the run ended before its plan; None while it goes on, and where it went to the end."""
    progress, patience = run.progress, run.config.stop.patience_epochs
    if patience is None or not progress.history or progress.step >= run.plan.total_steps:
        return None
    best = best_epoch(progress.history)
    if progress.history[-1]["epoch"] - best < patience - 1e-9:
        return None
    return {
        "by": "stop.patience_epochs", "patience_epochs": patience, "step": progress.step,
        "of_steps": run.plan.total_steps, "epoch": run.plan.epoch_shown(progress.step), "best_epoch": best,
    }  # fmt: skip


def best_epoch(history: list[dict[str, Any]]) -> float:
    """The epoch of the first of the highest scores; 0, the start of the run, while there is none."""
    known = [row for row in history if row["mAP"] is not None]
    return float(max(known, key=lambda row: row["mAP"])["epoch"]) if known else 0.0


def line(told: dict[str, Any]) -> str:
    """What `stopped_early` tells, for a log."""
    return (
        f"stopped early after step {told['step']} of {told['of_steps']} (epoch {told['epoch']:.3g}): no new best mAP "
        f"since epoch {told['best_epoch']:.3g} (stop.patience_epochs {told['patience_epochs']:g})"
    )


def tell(run: Run) -> None:
    """Say that the run ended early, and what that left undone."""
    told = stopped_early(run)
    if told is not None:
        share = rate_factor(run.config.schedule, run.plan, run.progress.step)
        log.info(
            f"{line(told)}; the schedule is not shortened: the learning rate was {share:.3g} x optim.lr at the end"
        )
