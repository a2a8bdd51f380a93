"""Learning rate as a function of the step: nothing to save, nothing that a resume could lose."""

import math
from bisect import bisect_right

from masksup.config.schema import Config, Schedule
from masksup.data.sampler import Plan


def rates_at(config: Config, plan: Plan, step: int) -> tuple[float, float | None]:
    """Learning rate at `step` (from 0), before the groups' factors, and one-cycle's momentum: for `set_rates`."""
    return config.optim.lr * rate_factor(config.schedule, plan, step), onecycle_momentum(config.schedule, plan, step)


def rate_factor(schedule: Schedule, plan: Plan, step: int) -> float:
    """Factor on every group's learning rate at `step` (from 0); methods.md 1.3, 3, 4.2 and 5.1."""
    if schedule.name == "onecycle":
        return _onecycle_rate(schedule, plan.total_steps, step)
    warmup = schedule.warmup_epochs * plan.steps_per_epoch
    if step < warmup:
        return (step if schedule.warmup_from_zero else min(step + 1, warmup)) / warmup * _decay(schedule, plan, step, 0)
    return _decay(schedule, plan, step, warmup if schedule.decay_from == "warmup_end" else 0)


def _decay(schedule: Schedule, plan: Plan, step: int, start: float) -> float:
    """Factor without warm-up; the decay's clock starts at step `start`."""
    if schedule.decay_from == "warmup_end" and start == 0 and schedule.warmup_epochs > 0:
        return 1.0  # still warming up: the clock has not started
    elapsed, whole = step - start, plan.total_steps - start
    # Whole epochs of the clock; the small term absorbs rounding where steps_per_epoch is a fraction.
    epochs = elapsed / plan.steps_per_epoch + 1e-9
    match schedule.name:
        case "step":
            return float(schedule.gamma ** math.floor(epochs / schedule.step_epochs))
        case "multistep":
            return float(schedule.gamma ** bisect_right(sorted(schedule.milestones), epochs))
        case "cosine":
            return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * elapsed / whole))
        case "poly":
            return schedule.final + (1 - schedule.final) * float((1 - elapsed / whole) ** schedule.power)
    return 1.0


def _onecycle_rate(schedule: Schedule, total: int, step: int) -> float:
    """Smith's one-cycle policy in torch's two-phase form: cosine from 1/div up to 1 and down to 1/(div final_div)."""
    first, last = 1 / schedule.div, 1 / (schedule.div * schedule.final_div)
    share, rising = _onecycle_phase(schedule, total, step)
    return _cosine(first, 1.0, share) if rising else _cosine(1.0, last, share)


def onecycle_momentum(schedule: Schedule, plan: Plan, step: int) -> float | None:
    """The momentum (SGD) or first beta (Adam) that one-cycle sets against the rate, 0.95 to 0.85; else None."""
    if schedule.name != "onecycle":
        return None
    share, rising = _onecycle_phase(schedule, plan.total_steps, step)
    return _cosine(0.95, 0.85, share) if rising else _cosine(0.85, 0.95, share)


def _onecycle_phase(schedule: Schedule, total: int, step: int) -> tuple[float, bool]:
    peak, end = schedule.pct_start * total - 1, total - 1
    if step <= peak:
        return (step / peak if peak > 0 else 1.0), True  # the first step may be the peak; torch divides by zero there
    return (step - peak) / (end - peak), False


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
