"""How the keepers of a job go on after something broke: pure logic, decided by the first of them for all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from launch.start.council import Agreement
from masksup.base.words import counted
from masksup.runtime.rendezvous import named

IN_VAIN = 2
"""Recoveries that brought the run no further, and no newer snapshot, after which the next failure is the launcher's."""


def recovery(
    why: str, has: Mapping[int, Mapping[str, Any]], missing: Mapping[int, str], before: Sequence[Agreement],
    reached: int, fewest: int,
) -> Agreement:  # fmt: skip
    """The plan after something broke.

    has: by number of keeper, its host and the steps of its snapshots. missing: the hosts of keepers that say nothing
    any more. before: the plans of earlier recoveries. reached: the last step that is known to be done. fewest: ranks to
    go on with.
    """
    steps = set.intersection(*(set(row["steps"]) for row in has.values()))
    furthest = max([reached, *(plan.furthest for plan in before)])
    plan = Agreement(why, max(steps, default=None), furthest, members=list(has))
    if [(other.furthest, other.step) for other in before].count((plan.furthest, plan.step)) >= IN_VAIN:
        return Agreement(stop=f"{why}, after {IN_VAIN} recoveries at step {furthest}")
    if not missing:
        return plan
    hosts = sorted(set(missing.values()))
    lost = f"nothing is heard of the keeper{'s' * (len(missing) > 1)} of {named(list(missing))} on {', '.join(hosts)}"
    if {row["host"] for row in has.values()}.intersection(hosts):
        return Agreement(stop=lost)  # a place of a node that is there would stand empty
    if len(has) >= fewest:
        return replace(plan, why=lost)
    too_few = f"{lost}; found {counted(len(has), 'rank')} left, expected {fewest}"
    return Agreement(stop=too_few) if plan.step is None else replace(plan, why=too_few, leave=True)
