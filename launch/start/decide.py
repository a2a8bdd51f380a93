"""What becomes of a run whose ranks have left: pure logic, no SLURM."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.cluster.resources import Resources
from launch.cluster.slurm import complaint
from launch.ledger import Start
from masksup.base.exhausted import LESS
from masksup.exits import STOPPED, USER_ERROR
from masksup.runtime.fence import SUPERSEDED

DONE = 0
# SLURM asks up to a minute earlier than it was told to.
_COARSE_S = 60


@dataclass(frozen=True)
class Left:
    """How the ranks of one start left."""

    world: int
    status: int
    """Of srun."""
    exits: Mapping[int, Mapping[str, Any]]
    """By rank: status, host, error. A rank that was killed, or whose node is gone, left no record."""
    seconds: float
    """Since the start of the job."""
    finished: bool
    """There is a result."""
    cancelled: bool
    preempted: bool = False
    """SLURM says so; it says nothing about a time limit that comes near."""
    hopeless: bool = False
    """Successive halving asked it to leave."""
    srun: str = ""
    """What srun itself printed."""
    trained_before: bool = False
    """An earlier start of this job did steps: what srun was asked for is not wrong in itself."""

    @property
    def refused(self) -> bool:
        """No rank ran, for a reason that will be the same at every start."""
        return not self.exits and not self.trained_before and refused_for_good(self.srun)


def outcome(left: Left, resources: Resources) -> str:
    """done, cancelled, superseded, hopeless, wrong, preempted, timeout, crashed or lost."""
    statuses = {int(row["status"]) for row in left.exits.values()}
    everybody = len(left.exits) == left.world
    if left.finished and statuses <= {DONE}:
        return "done"
    if SUPERSEDED in statuses:
        return "superseded"
    if left.cancelled:
        return "cancelled"
    if left.hopeless and statuses <= {DONE, STOPPED}:
        return "hopeless"
    if USER_ERROR in statuses or left.refused or memory_was_used_up(left.srun):
        return "wrong"
    if everybody and statuses <= {DONE, STOPPED} and STOPPED in statuses:
        near = left.seconds >= resources.limit_seconds - resources.signal_seconds - _COARSE_S
        return "timeout" if near and not left.preempted else "preempted"
    if everybody:
        return "crashed"
    return "lost"


def first_error(left: Left) -> str | None:
    """The most telling line of the ranks: a mistake in the input, else the first that is not about a peer."""
    rows = [(rank, row) for rank, row in sorted(left.exits.items()) if row.get("error")]
    missing = sorted(set(range(left.world)) - set(left.exits))
    if memory_was_used_up(left.srun) and not any(row["status"] == USER_ERROR for _, row in rows):
        who = f"rank {missing[0]} was" if missing else "a process of a rank was"
        return f"out of memory: {who} killed, for the job has no more; {LESS}; or ask the cluster for more memory"
    if rows:
        rows.sort(key=lambda item: (item[1]["status"] != USER_ERROR, _about_a_peer(item[1]["error"]), item[1]["time"]))
        rank, row = rows[0]
        return f"rank {rank} on {row['host']}: {row['error']}"
    said = complaint(left.srun).removeprefix("srun: ")
    if left.refused:
        return f"srun: {said}"
    return (
        f"rank {missing[0]} left no word (killed, or its node is gone); srun: {said or left.status}"
        if missing
        else None
    )


# What srun says where a start would fail alike whenever it is tried; a node or a controller that is away may come back.
# "Invalid generic resource (gres) specification" is not among it: sbatch has accepted the same GPUs, and SLURM was seen
# to say so of a job that was queued again onto nodes with another type of them. Other nodes, or another try, may do.
_FOR_GOOD = re.compile(
    r"unrecognized option|invalid option|Invalid (?!generic resource).*specification"
    r"|Invalid (argument|mpi|MPI|numeric value|--)|Couldn't find the specified plugin"
    r"|Cannot create context for|execve\(\): .*No such file"
    r"|More processors requested than permitted|Memory required by task is not available"
    r"|Requested node configuration is not available"
)


def refused_for_good(said: str) -> bool:
    """Whether srun refused what it was asked for, and not only could not start it now."""
    return _FOR_GOOD.search(said) is not None


def memory_was_used_up(said: str) -> bool:
    """Whether SLURM says that the kernel killed a process of the step for its memory: the same would happen again."""
    return re.search(r"oom[-_ ]?kill|\bout of memory\b", said, re.I) is not None


def _about_a_peer(error: str) -> bool:
    return any(word in error.lower() for word in ("gloo", "nccl", "connection", "socket", "peer", "broken pipe"))


def why_not_again(result: str, history: Sequence[Start], resources: Resources) -> str | None:
    """None if the run is to be started again after it ended as `result`; else the reason, for people.

    `history` holds every start, the one that ended just now included. Those of the newest job count: a person who
    submits a run again has seen what became of it before, and most likely mended it. Time limits do not use up the
    budget of preemptions, nor the other way round, and a crash is forgiven once the run got further than ever before.
    """
    if result in ("done", "wrong", "cancelled", "superseded", "hopeless"):
        return result
    history = [start for start in history if start.job == history[-1].job]
    budgets = {"preempted": resources.max_preemptions, "timeout": resources.max_timeouts}
    if result in budgets:
        used = sum(1 for start in history if start.outcome == result)
        return None if used <= budgets[result] else f"{used} times {result}; the limit is {budgets[result]}"
    losses = [start for start in history if start.outcome in ("crashed", "lost", "interrupted")]
    if len(losses) > resources.max_losses:
        return f"{len(losses)} crashes and losses; max_losses is {resources.max_losses}"
    in_vain = crashes_in_vain(history)
    if in_vain > resources.max_failures:
        return f"{in_vain} crashes without progress; max_failures is {resources.max_failures}"
    return None


def crashes_in_vain(history: Sequence[Start]) -> int:
    """Crashes and losses since the run last got further than ever before."""
    furthest, count = -1, 0
    for start in history:
        reached = -1 if start.last_step is None else start.last_step
        if reached > furthest and start.first_step is not None and reached > start.first_step:
            furthest, count = reached, 0
        if start.outcome in ("crashed", "lost"):
            count += 1
    return count


def bad_nodes(left: Left, nodes: Sequence[str], states: Mapping[str, str]) -> list[str]:
    """Nodes to stay away from: those that do not answer, or none of whose ranks left a word though others did."""
    heard = {str(row["host"]).split(".")[0] for row in left.exits.values()}
    silent = [node for node in nodes if node.split(".")[0] not in heard] if heard else []
    down = [node for node in nodes if any(word in states.get(node, "") for word in ("down", "*", "fail", "drain"))]
    return sorted(set(down) | set(silent))
