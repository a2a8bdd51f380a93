"""SLURM's commands, as functions. Everything that the program knows of a live cluster comes through here."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from launch.cluster.gres import gpus_in
from masksup.base.words import first_line
from masksup.errors import UserError

ACTIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
    "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED",
}  # fmt: skip
WAIT_S = 60
_ASK_S = 10


@dataclass(frozen=True)
class Job:
    """A job, or an element of an array, as SLURM sees it now."""

    id: str
    state: str
    reason: str = ""
    restarts: int = 0
    submitted: float | None = None
    """When it was submitted, or queued again for the last time; seconds since the epoch."""
    ended: float | None = None
    user: str = ""
    name: str = ""

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


def here() -> bool:
    """Whether this machine can submit jobs."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def call(*command: str, timeout: float = WAIT_S, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a command of SLURM, `environment` added. UserError with its own line where it refuses."""
    env = {**_environment(), **(environment or {})}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
    except FileNotFoundError:
        raise UserError(f"found no {command[0]} on this machine, expected a login node of a SLURM cluster") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: no answer from SLURM in {timeout:g} s") from None
    if done.returncode:
        raise UserError(complaint(done.stderr or done.stdout) or f"{command[0]}: exit status {done.returncode}")
    return done.stdout


def try_call(*command: str, timeout: float = WAIT_S) -> str | None:
    """Run a command whose failure stops nothing. Returns why it failed, or None."""
    try:
        call(*command, timeout=timeout)
    except UserError as error:
        return str(error)
    return None


# A user's own format or filter would change what the commands print, or which jobs they show; options of sbatch in the
# environment win over those of the script, so only those stay that no script of the launcher relies on.
_OWN = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_", "SBATCH_", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS")
_KEPT = ("SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_CONSTRAINT", "SBATCH_WCKEY")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN) or name in _KEPT}
    return kept | {"LC_ALL": "C"}


@contextmanager
def own_options_unset() -> Iterator[None]:
    """For commands of SLURM that a library runs: the environment that those of this module have."""
    before = dict(os.environ)
    for name in before.keys() - _environment().keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def complaint(text: str) -> str:
    """The first line of what a command said, without the name of its error level."""
    return re.sub(r"^(\w+): error: ", r"\1: ", first_line(text))


def queue(ids: Iterable[str]) -> dict[str, Job]:
    """Jobs and array elements that SLURM still has in its memory, by id (1234, or 1234_5)."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    mains = sorted({job.partition("_")[0] for job in wanted})
    layout = "JobArrayID:|,State:|,Reason:|,RestartCnt:|,SubmitTime:|,EndTime:|,UserName:|,Name:1024"
    try:
        text = call("squeue", "-h", "-r", "-t", "all", "-O", layout, "-j", ",".join(mains))
    except UserError as error:
        if "Invalid job id" not in str(error):
            raise
        if len(mains) == 1:
            return {}
        found: dict[str, Job] = {}  # one that SLURM has forgotten spoils the question for all others
        for main in mains:
            found |= queue([job for job in wanted if job.partition("_")[0] == main])
        return found
    jobs = {job.id: job for job in map(_job, text.splitlines())}
    return {job: jobs[job] for job in wanted if job in jobs}


def _job(line: str) -> Job:
    """A line of squeue; the name stands last, as it may hold a bar itself."""
    id_, state, reason, restarts, submitted, ended, user, name = (line.split("|", 7) + [""] * 7)[:8]
    count = int(restarts) if restarts.isdigit() else 0
    reason = "" if reason == "None" else reason
    return Job(id_, state, reason, count, _moment(submitted), _moment(ended), user, name.rstrip())


@cache
def cluster_name() -> str | None:
    """What this cluster calls itself; None where it does not say."""
    try:
        found = re.search(r"^ClusterName\s*=\s*(\S+)", call("scontrol", "show", "config"), re.MULTILINE)
    except UserError:
        return None
    return found[1] if found else None


def fields(job: str) -> dict[str, str]:
    """All that `scontrol show job` says of a job, in its own words."""
    text = call("scontrol", "-o", "show", "job", job)
    return dict(re.findall(r"([^\s=]+)=(.*?)(?=\s+[^\s=]+=|\s*$)", first_line(text)))


def started(job: str) -> float | None:
    """When this start of a job began, seconds since the epoch; None where SLURM does not say."""
    try:
        return _moment(fields(job).get("StartTime", ""))
    except UserError:
        return None


def show(job: str) -> Job | None:
    """One job with its restart count, or None where SLURM does not know it."""
    try:
        text = call("scontrol", "-o", "show", "job", job)
    except UserError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    line = first_line(text)
    fields = dict(re.findall(r"(\w+)=(\S*)", line))
    state = fields.get("JobState", "UNKNOWN")
    return Job(job, state, fields.get("Reason", ""), int(fields.get("Restarts", 0)))


def ask_to_leave(job: str) -> str | None:
    """Signal the ranks of a running job. Returns why that was not possible, or None.

    The steps are signalled, not the job. Asked for an element of an array with elements that still wait, scancel
    signals it, is answered "try again later" all the same, and a few seconds later signals the element's next start.
    """
    try:
        steps = call("squeue", "-h", "-s", "-j", job, "-o", "%i").split()
    except UserError as error:
        return str(error)
    ranks = [step for step in steps if step.rpartition(".")[2].isdigit()]  # not .batch and .extern
    if not ranks:
        return "its ranks have not started yet"
    return try_call("scancel", "--signal=USR2", *ranks, timeout=_ASK_S)


def is_preempted(job: str) -> bool:
    """Whether SLURM has told this running job to leave."""
    try:
        return re.search(r"PreemptTime=\d", call("scontrol", "-o", "show", "job", job)) is not None
    except UserError:
        return False


@dataclass(frozen=True)
class Accounted:
    """One start of a job in SLURM's accounting, or a part of one that lost a node. Times: seconds since the epoch."""

    id: str
    state: str
    start: float | None
    end: float | None
    seconds: int
    gpus: int | None = None
    """None where the cluster does not account for them."""


def accounting(ids: Iterable[str]) -> list[Accounted] | None:
    """Every start of the jobs, requeued ones too; None where the cluster keeps no accounts."""
    wanted = sorted(set(ids))
    if not wanted or shutil.which("sacct") is None:
        return None
    try:
        text = call(
            "sacct", "-n", "-X", "-P", "--duplicates", "-S", "2000-01-01", "-j", ",".join(wanted),
            "-o", "JobID,State,Start,End,ElapsedRaw,AllocTRES",
        )  # fmt: skip
    except UserError:
        return None
    rows = []
    for line in text.splitlines():
        name, state, start, end, elapsed, held = (line.split("|") + [""] * 6)[:6]
        gpus, word = gpus_in(held).get(None), state.split()[0] if state else ""
        rows.append(Accounted(name, word, _moment(start), _moment(end), int(elapsed or 0), gpus))
    return rows


def _moment(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def hosts(node_list: str) -> list[str]:
    """n[1-3,07] and the like, written out: host names in SLURM's order. Nested brackets of one level."""
    names: list[str] = []
    for part in re.findall(r"[^,\[]+(?:\[[^\]]*\][^,\[]*)*", node_list):
        expanded = [""]
        for plain, inside in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", part):
            pieces = [plain] if plain else _ranges(inside)
            expanded = [head + piece for head in expanded for piece in pieces]
        names += expanded
    return names


def _ranges(text: str) -> list[str]:
    found = []
    for piece in text.split(","):
        low, dash, high = piece.partition("-")
        numbers = range(int(low), int(high) + 1) if dash else range(int(low), int(low) + 1)
        found += [f"{number:0{len(low)}d}" for number in numbers]
    return found


def partitions() -> dict[str, dict[str | None, int]]:
    """Names of the partitions, each with the most GPUs that one of its nodes has: of each type, and of any (None)."""
    found: dict[str, dict[str | None, int]] = {}
    for line in call("sinfo", "-h", "-o", "%R|%G").splitlines():
        name, _, gres = line.partition("|")
        node = gpus_in(gres)
        most = found.setdefault(name, {None: 0})
        for kind, count in (node | {None: sum(node.values())}).items():
            most[kind] = max(most.get(kind, 0), count)
    return found


def spare_nodes(partition: str, needed: int) -> int:
    """How many nodes a partition has beyond those that a job needs."""
    return len(set(call("sinfo", "-h", "-N", "-p", partition, "-o", "%N").split())) - needed


def node_states(nodes: Iterable[str]) -> dict[str, str]:
    """State of each node, such as idle, mixed, down*; a star means that it does not answer."""
    text = call("sinfo", "-h", "-N", "-o", "%N|%T", "-n", ",".join(nodes))
    return dict(line.split("|", 1) for line in text.splitlines() if "|" in line)


def requeue(job: str, restart: int, patience: float = 600, pause: float = 5) -> str | None:
    """Queue this job, or this element of an array alone, once more. Returns why that was not possible, or None.

    `restart` is the count of the start that asks: an older copy of a job, on a machine that was cut off, must not
    queue the newer one. Waits out a controller that is restarting.
    """
    end = time.monotonic() + patience
    while True:
        try:
            now = show(job)
            if now is None:
                return "SLURM does not know this job any more"
            if now.restarts != restart:
                return f"it was queued again already (restart {now.restarts})"
            # COMPLETING hides why; a job that somebody cancelled must not come back.
            overrun = now.state == "COMPLETING" and now.reason == "TimeLimit"
            if now.state not in ("RUNNING", "SUSPENDED", "SIGNALING") and not overrun:
                return f"its state is {now.state}, reason {now.reason}"
            call("scontrol", "requeue", job)
            return None
        except UserError as error:
            if time.monotonic() > end:
                return str(error)
            time.sleep(pause)
