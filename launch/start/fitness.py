"""What makes a node unfit, from what its ranks saw: pure logic."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_FREE_GIB = 1.0
LEAST_DISK_MIB_S = 5.0
MOST_BUSY_MIB = 2000.0
"""Memory that somebody else holds on a GPU of ours; a context alone takes some hundred MiB."""
MOST_CLOCK_S = 2.0
SLOWER = 5.0
"""A node whose ranks are this much slower than the median is named."""


@dataclass
class RankReport:
    """What one rank saw. None: not measured by this rank, or not there."""

    rank: int
    host: str
    clock: float
    """Time of day right after a barrier."""
    asked_gpus: int = 0
    """GPUs that SLURM gave to this process."""
    gpus: int = 0
    driver: str | None = None
    """None: there is none on this node, and its GPUs are not looked at."""
    gpu_problem: str | None = None
    nccl: str | None = None
    busy_mib: float = 0.0
    gib_per_second: float | None = None
    disk_mib_per_second: float | None = None
    disk_problem: str | None = None
    free_gib: float | None = None
    data_problem: str | None = None


def problems(cards: Sequence[RankReport]) -> dict[str, list[str]]:
    """Node -> what is wrong with it; empty if all are fit."""
    bad: dict[str, list[str]] = {}
    for card in cards:
        for text in _of_one(card):
            _add(bad, card.host, text)
    for name in ("driver", "nccl"):
        usual = Counter(getattr(card, name) for card in cards).most_common(1)[0][0]
        for card in cards:
            if getattr(card, name) != usual:
                _add(bad, card.host, f"{name}: found {getattr(card, name)}, the others have {usual}")
    median_clock = sorted(card.clock for card in cards)[len(cards) // 2]
    for card in cards:
        if abs(card.clock - median_clock) > MOST_CLOCK_S:
            _add(bad, card.host, f"clock: {card.clock - median_clock:+.1f} s off the others")
    speeds = sorted(card.disk_mib_per_second for card in cards if card.disk_mib_per_second is not None)
    for card in cards:
        if card.disk_mib_per_second is not None and card.disk_mib_per_second * SLOWER < speeds[len(speeds) // 2]:
            _add(
                bad, card.host, f"disk: {card.disk_mib_per_second:.0f} MiB/s, the others {speeds[len(speeds) // 2]:.0f}"
            )
    return bad


def shared_mistake(cards: Sequence[RankReport]) -> str | None:
    """What no node can read or write, for the same reason: that is no node's fault. None on a single node."""
    hosts = {card.host for card in cards}
    for what, name in (("data", "data_problem"), ("run folder", "disk_problem")):
        told = {card.host: getattr(card, name) for card in cards if getattr(card, name) is not None}
        if len(hosts) > 1 and told.keys() == hosts and len(set(told.values())) == 1:
            return f"{what}: {next(iter(told.values()))}, on all of {len(hosts)} nodes"
    return None


def _of_one(card: RankReport) -> list[str]:
    found = []
    if card.gpu_problem is not None:
        found.append(f"GPUs do not answer: {card.gpu_problem}")
    elif card.driver is not None and card.gpus < card.asked_gpus:
        found.append(f"GPUs: found {card.gpus}, SLURM gave {card.asked_gpus}")
    if card.busy_mib > MOST_BUSY_MIB:
        found.append(f"GPU memory: {card.busy_mib:.0f} MiB in use by others")
    if card.disk_problem is not None:
        found.append(f"run folder: {card.disk_problem}")
    elif card.free_gib is not None and card.free_gib < LEAST_FREE_GIB:
        found.append(f"run folder: {card.free_gib:.1f} GiB free, expected {LEAST_FREE_GIB:g}")
    if card.disk_mib_per_second is not None and card.disk_mib_per_second < LEAST_DISK_MIB_S:
        found.append(f"run folder: {card.disk_mib_per_second:.1f} MiB/s written, expected {LEAST_DISK_MIB_S:g}")
    if card.data_problem is not None:
        found.append(f"data: {card.data_problem}")
    return found


def _add(bad: dict[str, list[str]], host: str, text: str) -> None:
    found = bad.setdefault(host, [])
    if text not in found:
        found.append(text)
