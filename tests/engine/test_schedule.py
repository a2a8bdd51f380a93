"""Learning rates against torch's schedulers and the literal rules of the originals (methods.md 1.3, 3, 4.2, 5.1)."""

import math
from itertools import product
from typing import get_args

import pytest
import torch
from torch import nn

from masksup.config.schema import Schedule
from masksup.data.sampler import Plan
from masksup.engine.schedule import onecycle_momentum, rate_factor


def plan(samples: int = 50, batch: int = 5, epochs: float = 12) -> Plan:
    return Plan(samples, batch, batch, epochs, "continue", seed=0)


def factors(schedule: Schedule, p: Plan) -> list[float]:
    return [rate_factor(schedule, p, step) for step in range(p.total_steps)]


def test_csra_warms_up_from_zero_and_decays_counted_from_the_start() -> None:
    """lr(t) = base t / (2N) for t = 0 .. 2N - 1; then 0.1 after every 4 epochs of the run, warm-up included."""
    p = plan()
    found = factors(Schedule(name="step", warmup_epochs=2, warmup_from_zero=True, step_epochs=4), p)
    n = 10
    for t, factor in enumerate(found):
        expected = t / (2 * n) if t < 2 * n else 0.1 ** (t // n // 4)
        assert factor == pytest.approx(expected, rel=1e-12), t
    assert found[0] == 0.0


def test_paddle_decays_counted_from_the_end_of_warmup() -> None:
    found = factors(Schedule(name="step", warmup_epochs=2, decay_from="warmup_end", step_epochs=4), plan())
    assert found[19] == 1.0
    assert found[20:60] == pytest.approx([1.0] * 40)
    assert found[60:100] == pytest.approx([0.1] * 40)


def test_paddle_poly_reaches_the_end_over_the_epochs_after_warmup() -> None:
    p = plan()
    found = factors(Schedule(name="poly", power=1.0, warmup_epochs=2, decay_from="warmup_end"), p)
    assert found[20] == 1.0
    assert found[70] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(1 / 100)


def test_warmup_without_the_quirk_starts_with_one_share() -> None:
    found = factors(Schedule(name="constant", warmup_epochs=1), plan())
    assert found[:11] == pytest.approx([(t + 1) / 10 for t in range(10)] + [1.0])


def test_mcar_multistep_equals_torch_per_epoch() -> None:
    p = plan(epochs=60)
    found = factors(Schedule(name="multistep", milestones=(30, 50)), p)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 50], 0.1)
    for epoch in range(60):
        assert found[10 * epoch : 10 * epoch + 10] == pytest.approx([optimizer.param_groups[0]["lr"]] * 10), epoch
        optimizer.step()
        scheduler.step()


def test_puzzle_poly_is_the_formula_of_each_iteration() -> None:
    p = plan()
    found = factors(Schedule(name="poly", power=0.9), p)
    assert found == pytest.approx([(1 - t / p.total_steps) ** 0.9 for t in range(p.total_steps)])


def test_cosine_equals_torch_per_iteration() -> None:
    p = plan()
    found = factors(Schedule(name="cosine", final=0.1), p)
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * t / p.total_steps)) / 2 for t in range(p.total_steps)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "pct"), [("sgd", 0.3), ("adam", 0.2)])
def test_onecycle_equals_torch_in_rate_and_momentum(kind: str, pct: float) -> None:
    p = plan()
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD([weight], lr=1, momentum=0.9) if kind == "sgd" else torch.optim.Adam([weight])
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=p.total_steps, pct_start=pct)
    schedule = Schedule(name="onecycle", pct_start=pct)
    for step in range(p.total_steps):
        group = optimizer.param_groups[0]
        assert rate_factor(schedule, p, step) == pytest.approx(group["lr"], rel=1e-9), step
        momentum = group["momentum"] if kind == "sgd" else group["betas"][0]
        assert onecycle_momentum(schedule, p, step) == pytest.approx(momentum, rel=1e-9), step
        optimizer.step()
        if step + 1 < p.total_steps:
            scheduler.step()


@pytest.mark.parametrize("pct", [0.0, 0.1, 0.25, 0.3, 0.5, 1.0])
def test_onecycle_of_any_length_equals_torch_and_its_limit_where_torch_divides_by_zero(pct: float) -> None:
    for total in range(1 if pct < 1 else 2, 51):
        p, schedule = plan(samples=total, batch=1, epochs=1), Schedule(name="onecycle", pct_start=pct)
        weight = [nn.Parameter(torch.zeros(1))]
        first_is_peak = pct * total == 1
        reached = pct - 1e-9 * first_is_peak
        optimizer = torch.optim.SGD(weight, lr=1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=total, pct_start=reached)
        for step in range(total):
            group = optimizer.param_groups[0]
            tolerance = 1e-6 if first_is_peak else 1e-9
            assert rate_factor(schedule, p, step) == pytest.approx(group["lr"], rel=tolerance), (total, step)
            assert onecycle_momentum(schedule, p, step) == pytest.approx(group["momentum"], rel=tolerance), (
                total,
                step,
            )
            optimizer.step()
            if step + 1 < total:
                scheduler.step()


def test_onecycle_of_one_step_that_only_rises_is_its_peak() -> None:
    assert factors(Schedule(name="onecycle", pct_start=1.0), plan(samples=1, batch=1, epochs=1)) == [1.0]


@pytest.mark.parametrize("name", get_args(Schedule.model_fields["name"].annotation))
def test_every_schedule_of_any_length_gives_rates_from_0_to_1(name: str) -> None:
    """Lengths of 1 to 50 steps, a part of an epoch or several; warm-ups shorter and longer than the run."""
    shapes = product((0.3, 100.0), (False, True), (1, 50))
    for warmup, from_zero, samples in [(0.0, False, 3), *shapes]:
        schedule = Schedule.model_validate({
            "name": name, "warmup_epochs": warmup, "warmup_from_zero": from_zero, "pct_start": 0.1,
            "decay_from": "warmup_end" if from_zero else "start", "milestones": (1, 2),
        })  # fmt: skip
        for total in range(1, 51):
            p = Plan(samples, 1, 1, total / samples, "continue", seed=0)
            assert all(0 <= factor <= 1 for factor in factors(schedule, p)), (schedule, total)
            momenta = {onecycle_momentum(schedule, p, step) for step in range(p.total_steps)}
            assert momenta == {None} or all(0.85 <= momentum <= 0.95 for momentum in momenta if momentum), total


def test_decay_falls_on_the_epoch_where_steps_do_not_divide_it() -> None:
    p = plan(samples=7, batch=3, epochs=9)  # 2 1/3 steps an epoch; epoch 3 ends exactly after step 7
    found = factors(Schedule(name="step", step_epochs=3), p)
    assert found[6] == 1.0
    assert found[7] == pytest.approx(0.1)
