"""SLURM's commands, as functions. Everything that the program knows of a live cluster comes through here."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

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
    nodes: str = ""
    restarts: int = 0
    elapsed: str = ""

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


def here() -> bool:
    """Whether this machine can submit jobs."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def call(*command: str, timeout: float = WAIT_S) -> str:
    """Standard output of a command of SLURM. UserError with its own first line where it refuses."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=_environment())
    except FileNotFoundError:
        raise UserError(f"found no {command[0]} on this machine, expected a login node of a SLURM cluster") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: no answer from SLURM in {timeout:g} s") from None
    if done.returncode:
        raise UserError(first_line(done.stderr or done.stdout) or f"{command[0]}: exit status {done.returncode}")
    return done.stdout


def try_call(*command: str, timeout: float = WAIT_S) -> str | None:
    """Run a command whose failure stops nothing. Returns why it failed, or None."""
    try:
        call(*command, timeout=timeout)
    except UserError as error:
        return str(error)
    return None


def _environment() -> dict[str, str]:
    # A user's own format or filter would change what the commands print, or which jobs they show.
    own = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_", "SBATCH_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)} | {"LC_ALL": "C"}


def first_line(text: str) -> str:
    """The first line that says something, without the name of the command's error level."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^(\w+): error: ", r"\1: ", lines[0]) if lines else ""


def queue(ids: Iterable[str]) -> dict[str, Job]:
    """Jobs and array elements that SLURM still has in its memory, by id (1234, or 1234_5)."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    mains = sorted({job.partition("_")[0] for job in wanted})
    layout = "%i|%T|%r|%N|%M"
    try:
        text = call("squeue", "-h", "-r", "-t", "all", "-o", layout, "-j", ",".join(mains))
    except UserError as error:
        if "Invalid job id" not in str(error):
            raise
        if len(mains) == 1:
            return {}
        found: dict[str, Job] = {}  # one that SLURM has forgotten spoils the question for all others
        for main in mains:
            found |= queue([job for job in wanted if job.partition("_")[0] == main])
        return found
    jobs = {}
    for line in text.splitlines():
        name, state, reason, nodes, elapsed = (line.split("|") + [""] * 5)[:5]
        jobs[name] = Job(name, state, reason, nodes, 0, elapsed)
    return {job: jobs[job] for job in wanted if job in jobs}


def fields(job: str) -> dict[str, str]:
    """All that `scontrol show job` says of a job, in its own words."""
    text = call("scontrol", "-o", "show", "job", job)
    return dict(re.findall(r"([^\s=]+)=(.*?)(?=\s+[^\s=]+=|\s*$)", text.splitlines()[0]))


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
    line = text.splitlines()[0] if text.strip() else ""
    fields = dict(re.findall(r"(\w+)=(\S*)", line))
    state = fields.get("JobState", "UNKNOWN")
    return Job(job, state, fields.get("Reason", ""), fields.get("NodeList", ""), int(fields.get("Restarts", 0)))


def ask_to_leave(job: str) -> str | None:
    """Signal the ranks of a running job. Returns why that was not possible, or None.

    scancel tries again for a minute where the job has left meanwhile, and would then signal its next start.
    """
    return try_call("scancel", "--signal=USR2", job, timeout=_ASK_S)


def is_preempted(job: str) -> bool:
    """Whether SLURM has told this running job to leave."""
    try:
        return re.search(r"PreemptTime=\d", call("scontrol", "-o", "show", "job", job)) is not None
    except UserError:
        return False


@dataclass(frozen=True)
class Accounted:
    """One start of a job in SLURM's accounting. Times are seconds since the epoch."""

    id: str
    state: str
    start: float | None
    end: float | None
    seconds: int


def accounting(ids: Iterable[str]) -> list[Accounted] | None:
    """Every start of the jobs, requeued ones too; None where the cluster keeps no accounts."""
    wanted = sorted(set(ids))
    if not wanted or shutil.which("sacct") is None:
        return None
    try:
        text = call(
            "sacct", "-n", "-X", "-P", "--duplicates", "-S", "2000-01-01", "-o", "JobID,State,Start,End,ElapsedRaw",
            "-j", ",".join(wanted),
        )  # fmt: skip
    except UserError:
        return None
    rows = []
    for line in text.splitlines():
        name, state, start, end, elapsed = (line.split("|") + [""] * 5)[:5]
        rows.append(Accounted(name, state.split()[0] if state else "", _moment(start), _moment(end), int(elapsed or 0)))
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


def partitions() -> dict[str, int]:
    """Names of the partitions, each with the most GPUs that one of its nodes has."""
    found: dict[str, int] = {}
    for line in call("sinfo", "-h", "-o", "%R|%G").splitlines():
        name, _, gres = line.partition("|")
        counts = [int(n) for n in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres)]
        found[name] = max(found.get(name, 0), sum(counts))
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
