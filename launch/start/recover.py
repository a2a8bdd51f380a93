"""How the keepers of a job go on after something broke: pure logic, decided by the first of them for all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from launch.start.council import Plan
from masksup.runtime.rendezvous import named

SAME_STEP = 2
"""Recoveries at one furthest step, after which the next failure there is the launcher's."""


def recovery(
    why: str, has: Mapping[int, Mapping[str, Any]], missing: Mapping[int, str], furthest: Sequence[int], fewest: int
) -> Plan:
    """The plan after something broke.

    has: by number of keeper, its host and the steps of its snapshots. missing: the hosts of keepers that say nothing
    any more. furthest: the last step that was done before each recovery, this one last. fewest: ranks to go on with.
    """
    if furthest[:-1].count(furthest[-1]) >= SAME_STEP:
        return Plan(stop=f"{why}, after {SAME_STEP} recoveries at step {furthest[-1]}")
    steps = set.intersection(*(set(row["steps"]) for row in has.values()))
    plan = Plan(why, max(steps, default=None), furthest[-1], members=list(has))
    if not missing:
        return plan
    hosts = sorted(set(missing.values()))
    lost = f"nothing is heard of the keeper{'s' * (len(missing) > 1)} of {named(list(missing))} on {', '.join(hosts)}"
    if {row["host"] for row in has.values()}.intersection(hosts):
        return Plan(stop=lost)  # a place of a node that is there would stand empty
    if len(has) >= fewest:
        return replace(plan, why=lost)
    too_few = f"{lost}; {len(has)} ranks are left, and the fewest are {fewest}"
    return Plan(stop=too_few) if plan.step is None else replace(plan, why=too_few, leave=True)
