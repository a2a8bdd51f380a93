"""The place of this process in a job: read from torchrun, from srun (as submitit starts it), or alone.

Imports nothing heavy.
"""

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from masksup.errors import UserError

_PORTS = range(20000, 30000)  # below the ephemeral ports of Linux, so that no outgoing connection holds one
CANDIDATES = 8


@dataclass(frozen=True)
class Place:
    """One rank of a job.

    ports: where rank 0 may listen, to be tried in this order; torchrun has chosen one and listens itself.
    job: names this start of this job among others on the same host.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    launcher: Literal["alone", "torchrun", "srun"] = "alone"
    host: str = ""
    ports: tuple[int, ...] = ()
    job: str = ""

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and lines that a job has once."""
        return self.rank == 0


ALONE = Place()


def most_ranks(place: Place, env: Mapping[str, str] = os.environ) -> int:
    """Of all starts of this run: what the launcher was asked for, which may be a range of nodes; else those of now."""
    return max(place.world, _number(env, "MASKSUP_MOST_RANKS", 1))


def find_place(env: Mapping[str, str] = os.environ) -> Place:
    """The place that the environment describes. UserError naming a variable that is missing or out of range."""
    if "RANK" in env and "WORLD_SIZE" in env:
        place = _from_torchrun(env)
    elif int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # absent in a batch script itself, which is no rank
        place = _from_srun(env)
    else:
        return ALONE
    if not 0 <= place.rank < place.world:
        raise UserError(f"{place.launcher}: found rank {place.rank} of {place.world}, expected 0 to {place.world - 1}")
    return place


def _from_torchrun(env: Mapping[str, str]) -> Place:
    world = _number(env, "WORLD_SIZE", None)
    return Place(
        _number(env, "RANK", None), world, _number(env, "LOCAL_RANK", 0), _number(env, "LOCAL_WORLD_SIZE", world),
        "torchrun", env.get("MASTER_ADDR", "127.0.0.1"), (_number(env, "MASTER_PORT", 29500),),
        f"{env.get('TORCHELASTIC_RUN_ID', 'torchrun')}/{env.get('TORCHELASTIC_RESTART_COUNT', '0')}",
    )  # fmt: skip


def _from_srun(env: Mapping[str, str]) -> Place:
    restart = env.get("SLURM_RESTART_COUNT", "0")  # unset at first, then 1, 2, ...
    job = f"{env.get('SLURM_JOB_ID', '0')}.{env.get('SLURM_STEP_ID', '0')}/{restart}"
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    return Place(
        _number(env, "SLURM_PROCID", None), _number(env, "SLURM_STEP_NUM_TASKS", None),
        _number(env, "SLURM_LOCALID", 0), _tasks_here(env), "srun", first_host(nodes), ports_of(job), job,
    )  # fmt: skip


def cpus_of_rank(env: Mapping[str, str] = os.environ) -> int:
    """The CPUs that a rank may use: what SLURM gave it, or its share of this process's with the ranks beside it."""
    here = len(os.sched_getaffinity(0))
    place = find_place(env)
    given = env.get("SLURM_CPUS_PER_TASK", "")
    if place.launcher == "srun" and given.isdecimal():  # the process may be bound to these already
        return max(1, min(here, int(given)))
    return max(1, here // place.local_world)


def ports_of(job: str) -> tuple[int, ...]:
    """Ports that ranks on several nodes agree on without talking: a function of job id and restart count."""
    drawn = [_PORTS[zlib.crc32(f"{job} {k}".encode()) % len(_PORTS)] for k in range(CANDIDATES)]
    return tuple(dict.fromkeys(drawn))


def first_host(nodes: str) -> str:
    """The first of a SLURM node list such as `gpu[03-05,9],login1`, where rank 0 runs."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    if found is None:
        raise UserError(f"SLURM_STEP_NODELIST: found '{nodes}', expected a node list")
    return found[1] + (found[2] or "") + (found[3] or "")


def _tasks_here(env: Mapping[str, str]) -> int:
    """Tasks of this step on this node, from a list such as `2(x3),1` over its nodes."""
    counts: list[int] = []
    for group in (env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or "1").split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", group)
        counts += [int(found[1])] * int(found[2] or 1) if found else [1]
    return counts[min(int(env.get("SLURM_NODEID", "0")), len(counts) - 1)]


def _number(env: Mapping[str, str], name: str, default: int | None) -> int:
    text = env.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise UserError(f"{name}: found {text!r} in the environment, expected a number, as torchrun or srun sets it")
    return int(text)
