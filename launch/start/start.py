"""One start of a run, on the first node of its job: take the folder, start the ranks, judge how they left."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launch.cluster.resources import Resources
from launch.ledger import (
    Folder,
    Start,
    Token,
    begin,
    end,
    last_recovery,
    read_json,
    read_text,
    starts,
    write_json,
)
from launch.start.decide import Left, bad_nodes, first_error, outcome, refused_for_good, why_not_again
from launch.start.preflight import REPORT, read_bad
from launch.sweeps.results import sweep_of, swept_keys
from masksup.base import clock
from masksup.base.files import write_atomically
from masksup.config.load import load_config
from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.exits import STOPPED, USER_ERROR
from masksup.runtime.fence import SUPERSEDED

StartRanks = Callable[[list[str], dict[str, str], Folder, Start], int]
"""Runs the command of a rank on every place, with these variables, until all have left; gives the exit status."""


RANK = "launch.start.rank"
SHOWN_S = 20
"""A shared file system may show a new file to other nodes this much later."""
# srun gives the highest status of a rank, and more than these for one that was killed. 1 is also srun's own failure.
_ALL_LEFT_A_WORD = (0, USER_ERROR, STOPPED, SUPERSEDED)


@dataclass(frozen=True)
class Scheduler:
    """What a start needs of SLURM, or of this machine in its place."""

    start_ranks: StartRanks
    node_states: Callable[[list[str]], dict[str, str]]
    is_preempted: Callable[[str], bool]
    """Whether this job was told to leave for another one."""
    allotted_gpus: Callable[[], int | None] = lambda: None
    """How many GPUs the job was given, where the scheduler says so."""


@dataclass(frozen=True)
class Judgement:
    outcome: str
    not_again: str | None
    """Why the run is not to be started again; None if it is."""
    bad_nodes: list[str]


def say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} launcher: {text}", flush=True)


def job_resources(folder: Folder) -> Resources:
    """What the run's job was submitted with."""
    return Resources.model_validate(read_json(folder.job).get("resources", {}))


def run_start(folder: Folder, token: Token, nodes: list[str], scheduler: Scheduler, began: float) -> Judgement:
    """Start the ranks of a run once, wait for them, and write down how it went. `began`: start of the job's clock."""
    resources = job_resources(folder).on(len(nodes))
    refusal = _refusal(folder, token)
    if refusal is not None:
        say(refusal)
        return Judgement("superseded", refusal, [])
    start = begin(folder, token, nodes, _gpus(resources, scheduler), began)
    write_atomically(folder.fence, f"{token}\n")
    say(f"{folder.run}: start {start.number}, job {token.job}, restart {token.restart}, on {','.join(nodes)}")
    history = [before for before in starts(folder)[:-1] if before.job == token.job]
    spent = why_not_again("interrupted", history, resources)
    if spent is not None or folder.cancelled.exists():
        result, why = ("cancelled", "cancelled") if folder.cancelled.exists() else ("wrong", str(spent))
        end(folder, start, result, error=why)
        return Judgement(result, why, [])
    unfit = _preflight(folder, start, resources, scheduler.start_ranks) if resources.preflight else 0
    if unfit:
        bad, error = read_bad(folder.path)
        result = "wrong" if unfit == USER_ERROR else "lost"
        end(folder, start, result, error=error, bad_nodes=bad)
        say(f"start {start.number}: {'' if unfit == USER_ERROR else 'not fit to train on: '}{error}")
        return Judgement(result, why_not_again(result, starts(folder), resources), bad)
    status = _ranks(folder, start, resources, scheduler.start_ranks)
    return _judge(folder, start, status, scheduler, began)


def _gpus(resources: Resources, scheduler: Scheduler) -> int:
    given = scheduler.allotted_gpus()
    return resources.most_nodes * resources.gpus if given is None else given


def _refusal(folder: Folder, token: Token) -> str | None:
    """Why this start must not take the folder: a newer start of the same job has it."""
    holder = folder.fence.read_text(encoding="utf-8").strip() if folder.fence.exists() else ""
    job, _, restart = holder.rpartition(".")
    if job == token.job and int(restart) > token.restart:
        return f"{folder.run}: restart {restart} of this job holds it; this is restart {token.restart}"
    return None


def _preflight(folder: Folder, start: Start, resources: Resources, start_ranks: StartRanks) -> int:
    """The exit status of `launch.start.preflight`: 0 where all is well."""
    (folder.path / REPORT).unlink(missing_ok=True)
    command = rank_command(resources, "launch.start.preflight", [str(folder.path), *indexes(folder.config)])
    return start_ranks(command, variables(start, resources), folder, start)


def indexes(config: Path) -> list[str]:
    data = load_config(config)[0].data
    return [path for path in (data.train, data.eval, data.test) if path is not None]


def _ranks(folder: Folder, start: Start, resources: Resources, start_ranks: StartRanks) -> int:
    exits = folder.exits(start.number)
    shutil.rmtree(exits, ignore_errors=True)
    exits.mkdir(parents=True)
    before = next((a.outcome for a in reversed(starts(folder)) if a.number < start.number), None)
    command = rank_command(resources, rank_module(folder), [str(folder.run)])
    home = sweep_of(folder.run)
    columns = {"MASKSUP_HPARAMS": ",".join(swept_keys(home))} if home is not None else {}
    most = {"MASKSUP_MOST_RANKS": str(job_resources(folder).world)}
    return start_ranks(command, variables(start, resources, before) | columns | most, folder, start)


def rank_module(folder: Folder) -> str:
    """What runs on every place of a run."""
    try:
        config = load_config(folder.config)[0]
    except UserError:  # which the ranks tell
        return RANK
    return module_for(config)


def module_for(config: Config) -> str:
    """A rank, or its keeper where the run keeps snapshots in memory."""
    return "launch.start.keeper" if config.has_keepers else RANK


def outlives_nodes(resources: Resources, *configs: Config) -> bool:
    """Whether a job of these runs goes on when it loses a node: it has keepers, which can ask SLURM themselves."""
    return resources.most_nodes > 1 and resources.container is None and all(config.has_keepers for config in configs)


def rank_command(resources: Resources, module: str, arguments: list[str]) -> list[str]:
    """What every place runs. Signals are blocked from the first instant; the rank lets them in when it can listen."""
    container = shlex.split(resources.container or "")
    python = resources.python or sys.executable
    return ["env", "--block-signal=USR2,TERM", *container, python, "-P", "-u", "-m", module, *arguments]


def variables(start: Start, resources: Resources, before: str | None = None) -> dict[str, str]:
    """What every rank gets on top of the environment of the job."""
    return {
        "OMP_NUM_THREADS": str(resources.cpus_per_rank),
        "MASKSUP_RESUMED_AFTER": before or "",
        "MASKSUP_TOKEN": start.token, "MASKSUP_START": str(start.number),
        **resources.environment,
    }  # fmt: skip


def taken_over(folder: Folder, token: str) -> bool:
    """Whether another start holds the run now."""
    return read_text(folder.fence) not in ("", token)


def last_words(folder: Folder, start: Start) -> dict[int, dict[str, object]]:
    """Those that count, by rank."""
    last = last_recovery(folder, start.number)
    rows = [read_json(file) for file in folder.exits(start.number, last.recovery if last else 0).glob("rank*.json")]
    return {int(row["rank"]): row for row in rows if {"rank", "status", "host", "time"} <= row.keys()}


def ranks_now(folder: Folder, start: Start) -> int:
    """How many ranks a start has: fewer than at first where it has lost nodes and gone on without them."""
    last = last_recovery(folder, start.number)
    return last.ranks if last is not None else job_resources(folder).on(len(start.nodes)).world


def _exits(folder: Folder, start: Start, world: int, patient: bool) -> dict[int, dict[str, object]]:
    """The last words of the ranks, by rank. Where none was killed all left one, which may show here only later."""
    end = time.monotonic() + (SHOWN_S if patient else 0)
    while len(found := last_words(folder, start)) < world and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _judge(
    folder: Folder,
    start: Start,
    status: int,
    scheduler: Scheduler,
    began: float,
) -> Judgement:
    resources = job_resources(folder)
    if taken_over(folder, start.token):
        say("another start holds this run now; this one writes nothing more")
        return Judgement("superseded", "superseded", [])
    said = _srun_said(folder, start)
    world = max(ranks_now(folder, start), resources.fewest_ranks)
    exits = _exits(folder, start, world, patient=status in _ALL_LEFT_A_WORD and not refused_for_good(said))
    left = Left(
        world, status, exits, clock.now() - began, finished=folder.result.exists(),
        cancelled=folder.cancelled.exists(), hopeless=folder.stopped_early.exists(),
        preempted=scheduler.is_preempted(start.job), srun=said, trained_before=_trained(folder, start),
    )  # fmt: skip
    result = outcome(left, resources)
    error = first_error(left) if result in ("wrong", "crashed", "lost") else None
    bad: list[str] = []
    if result == "lost":
        try:
            bad = bad_nodes(left, start.nodes, scheduler.node_states(start.nodes))
        except UserError as problem:
            say(f"states of the nodes are not known: {problem}")
    end(folder, start, result, error=error, bad_nodes=bad)
    reason = why_not_again(result, starts(folder), resources)
    say(f"start {start.number}: {result}" + (f": {error}" if error else ""))
    return Judgement(result, reason, bad)


def _trained(folder: Folder, start: Start) -> bool:
    """Whether an earlier start of this job did steps."""
    earlier = (before for before in starts(folder) if before.job == start.job and before.number < start.number)
    return any(before.first_step is not None for before in earlier)


def _srun_said(folder: Folder, start: Start) -> str:
    return read_text(folder.srun_said(start.number))


def leave_word(folder: Folder, start: int, rank: int, status: int, error: str | None, recovery: int = 0) -> None:
    """What a rank says when it leaves; a rank that was killed says nothing, which is telling too."""
    row = {"rank": rank, "host": os.uname().nodename, "status": status, "error": error, "time": time.time()}
    try:
        write_json(folder.word(start, recovery, rank), row)
    except OSError as problem:
        print(f"masksup: {problem}", file=sys.stderr)
