"""What the batch script runs, on the first node: a start of the run by srun, and the way back into the queue.

python -P -m launch.start.first_node RUN_FOLDER
python -P -m launch.start.first_node --elements FILE     (one run folder a line; SLURM_ARRAY_TASK_ID chooses)
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import launch
from launch.cluster import slurm
from launch.cluster.checks import refuse_absent, refuse_full
from launch.cluster.options import words
from launch.cluster.resources import Resources
from launch.cluster.sbatch_script import Work
from launch.ledger import Folder, Start, Token
from launch.start.preflight import REPORT
from launch.start.start import (
    Judgement,
    Scheduler,
    job_resources,
    last_words,
    outlives_nodes,
    rank_command,
    ranks_now,
    run_start,
    say,
    taken_over,
    variables,
)
from launch.sweeps.halving import EarlyStop
from launch.sweeps.results import renew_results
from masksup.base import clock
from masksup.base.files import write_atomically
from masksup.config.load import load_config
from masksup.errors import UserError

# After the first rank left, the others have this long to save and follow; a rank that hangs is then killed. So long
# SLURM has for a step whose ranks have all said their last word: it may wait for a node that stands still.
FOLLOW_S, TIDY_S = 120, 10
WATCH_S = 2.0
ASK_AGAIN_S = 10.0
LOOK_AT = (1, 3, 6)


def main(arguments: list[str]) -> int:
    """Run one start. The exit status is the batch job's: 0 done, else what SLURM shows as FAILED."""
    if "SLURM_JOB_ID" not in os.environ:
        print("launch.start.first_node: not in a SLURM job, expected to be started by sbatch", file=sys.stderr)
        return 2
    folder = Folder(chosen(arguments, os.environ))
    token, nodes = own_token(os.environ), slurm.hosts(os.environ["SLURM_JOB_NODELIST"])
    began = slurm.started(token.job) or clock.now()
    verdict = run_start(folder, token, nodes, SLURM, began)
    status = _leave(folder, token, verdict)
    if verdict.outcome != "superseded":
        renew_results(folder.run)  # last: the way back into the queue waits for nothing
    return status


def _leave(folder: Folder, token: Token, verdict: Judgement) -> int:
    if verdict.not_again is None:
        return _again(token, verdict.bad_nodes, job_resources(folder))
    say(f"not started again: {verdict.not_again}")
    if verdict.outcome == "cancelled":
        slurm.try_call("scancel", token.job)  # so that SLURM, too, calls it cancelled
    return 0 if verdict.outcome in ("done", "superseded", "hopeless") else 1


def chosen(arguments: list[str], environment: Mapping[str, str]) -> Path:
    """The run folder: the argument itself, or the line of a list for this element of the array."""
    if arguments[0] != "--elements":
        return Path(arguments[0])
    lines = Path(arguments[1]).read_text(encoding="utf-8").split("\n")
    return Path(lines[int(environment["SLURM_ARRAY_TASK_ID"])])


def own_token(environment: Mapping[str, str]) -> Token:
    """This start of this job. An element is 1234_5: one of them has the whole array's plain number."""
    array, element = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{element}" if array and element else environment["SLURM_JOB_ID"]
    return Token(job, int(environment.get("SLURM_RESTART_COUNT") or 0))  # unset at first, then 1, 2, ...


def start_by_srun(command: list[str], variables: dict[str, str], folder: Folder, start: Start) -> int:
    """One task a rank on all nodes of the job. Returns srun's exit status."""
    if start.restart % 2:
        # A node that was cut off wakes up: its old srun is ended, and has SLURM end "its" step, by a number that the
        # new start would use too. Steps of neighbouring starts therefore have different numbers.
        slurm.try_call("srun", "--nodes=1", "--ntasks=1", "true")
    refusal = folder.srun_said(start.number)
    refusal.parent.mkdir(parents=True, exist_ok=True)
    resources = job_resources(folder)
    outlives = "launch.start.keeper" in command and outlives_nodes(resources, load_config(folder.config)[0])
    with refusal.open("ab") as said:
        srun = subprocess.Popen(
            srun_command(resources.on(len(start.nodes)), folder, start, outlives) + command,
            stdin=subprocess.DEVNULL, stderr=said, env={**os.environ, **variables},
        )  # fmt: skip
    try:
        return _follow(srun, folder, start, Ending(folder, start) if outlives else None)
    finally:
        sys.stderr.write(refusal.read_text(encoding="utf-8", errors="replace"))


class Ending:
    """Of ranks that do without a node that is lost: SLURM would wait for those of that node, or end the others."""

    def __init__(self, folder: Folder, start: Start) -> None:
        self._folder, self._start = folder, start
        self._seen, self._since = "", time.monotonic()

    def come(self) -> bool:
        """Whether all that still run have left, or one has, long ago. Says meanwhile that the launcher lives."""
        write_atomically(self._folder.launcher, f"{time.monotonic()}\n")
        ranks, said = ranks_now(self._folder, self._start), sorted(last_words(self._folder, self._start))
        if f"{ranks} {said}" != self._seen:
            self._seen, self._since = f"{ranks} {said}", time.monotonic()
        return bool(said) and time.monotonic() - self._since > (TIDY_S if len(said) >= ranks else FOLLOW_S)


def _follow(srun: "subprocess.Popen[bytes]", folder: Folder, start: Start, ending: Ending | None) -> int:
    asked, ticks, early = 0.0, 0, EarlyStop(folder)
    while True:
        try:
            return srun.wait(timeout=WATCH_S)
        except subprocess.TimeoutExpired:
            if taken_over(folder, start.token) or (ending is not None and ending.come()):
                srun.kill()  # and ask SLURM nothing: by this job's number it would mean the newer start
                continue
            ticks += 1
            if time.monotonic() - asked > ASK_AGAIN_S and _to_leave(folder, early):
                # Again and again: a signal to a step that has not started yet is lost.
                asked = time.monotonic()
                slurm.ask_to_leave(start.job)
            elif ticks in LOOK_AT and slurm.is_preempted(start.job):
                # The signal came before there were ranks, and nobody heard it.
                slurm.ask_to_leave(start.job)


def _to_leave(folder: Folder, early: EarlyStop) -> bool:
    return folder.cancelled.exists() or folder.stopped_early.exists() or early.due()


def srun_command(resources: Resources, folder: Folder, start: Start, outlives: bool = False) -> list[str]:
    # Without binding every rank sees all GPUs of its node, which NCCL needs to copy from one to the other.
    options = ({"gpu-bind": "none"} if resources.gpus else {}) | resources.srun
    return [
        "srun", "--unbuffered", "--export=ALL", f"--nodes={resources.nodes}", f"--ntasks={resources.world}",
        f"--ntasks-per-node={resources.ranks_on_a_node}", f"--cpus-per-task={resources.cpus_per_rank}",
        "--distribution=block", "--kill-on-bad-exit=0",
        *(["--no-kill", "--wait=0"] if outlives else [f"--wait={FOLLOW_S}"]), *words(options),
        "--open-mode=append", f"--output={folder.log(start.number)}",
    ]  # fmt: skip


def shown(work: Work, resources: Resources) -> str:
    """What the script's launcher runs on the nodes, for people: the ranks of the first start of the first run."""
    folder, start = Folder(work.runs[0]), Start(1, "JOB", 0, 0.0)
    command = srun_command(resources.on(resources.most_nodes), folder, start, work.outlives_nodes)
    command += rank_command(resources, work.module, [str(folder.run)])
    said = [f"{name}={shlex.quote(value)}" for name, value in variables(start, resources).items()]
    return f"# ranks, at each start\n{' '.join(said)} \\\n{shlex.join(command)}\n"


def preflight(folder: Path, indexes: list[Path], resources: Resources, table_to: int = 1) -> int:
    """masksup-launch preflight. table_to: the file descriptor that its table goes to."""
    refuse_absent()
    refuse_full(folder)
    (folder / REPORT).unlink(missing_ok=True)
    return on_nodes("launch.start.preflight", [str(folder), *map(str, indexes)], resources, table_to)


def on_nodes(module: str, arguments: list[str], resources: Resources, output: int) -> int:
    """Run a module as a rank on every place: inside an allocation on its nodes, else on nodes that are asked for now.

    Of a range, as many as the allocation has, else the most. output: the file descriptor that the ranks print to.
    """
    there = int(os.environ.get("SLURM_JOB_NUM_NODES") or resources.most_nodes)
    resources = resources.on(min(there, resources.most_nodes))
    inside = {"--time": resources.time} if "SLURM_JOB_ID" not in os.environ else {}
    wanted = {
        "--partition": resources.partition, "--account": resources.account, "--qos": resources.qos,
        "--constraint": resources.constraint, "--exclude": resources.exclude, "--mem": resources.mem, **inside,
        **{f"--{name}": value for name, value in resources.gpu_request.items()},
        **{f"--{name}": value for name, value in resources.srun.items()},
    }  # fmt: skip
    command = [
        "srun", "--export=ALL", f"--nodes={resources.nodes}", f"--ntasks={resources.world}",
        f"--ntasks-per-node={resources.ranks_on_a_node}", f"--cpus-per-task={resources.cpus_per_rank}",
        *[f"{name}={value}" for name, value in wanted.items() if value is not None],
        *rank_command(resources, module, arguments),
    ]  # fmt: skip
    root = str(Path(launch.__file__ or "").parents[1])
    variables = {**os.environ, **resources.environment, "PYTHONPATH": root}
    return subprocess.run(command, env=variables, stdout=output).returncode


def _again(token: Token, bad_nodes: list[str], resources: Resources) -> int:
    """Queue this job, or this element, once more. Leaving at once after that frees the GPUs before KillWait is over."""
    problem = slurm.requeue(token.job, token.restart)
    if problem is not None:
        say(f"not queued again by this script: {problem}")
        return 1
    say("queued again" + (f", without {','.join(bad_nodes)}" if bad_nodes else ""))
    if bad_nodes:
        _exclude(token.job, sorted({*bad_nodes, *slurm.hosts(resources.exclude or "")}), resources.fewest_nodes)
    return 0


def _exclude(job: str, nodes: list[str], needed: int) -> None:
    partition = os.environ.get("SLURM_JOB_PARTITION", "")
    try:
        if slurm.spare_nodes(partition, needed) < len(nodes):
            say(f"{','.join(nodes)} not excluded: partition {partition} would have too few nodes")
            return
    except UserError as error:
        say(str(error))
    problem = slurm.try_call("scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(nodes)}")
    if problem is not None:
        say(f"could not exclude {','.join(nodes)}: {problem}")


def allotted_gpus() -> int | None:
    """GPUs that SLURM gave this job on all nodes, however they were asked for; None where it says nothing of any."""
    here = os.environ.get("SLURM_GPUS_ON_NODE", "")
    own = int(here) if here.isdigit() else len([gpu for gpu in os.environ.get("SLURM_JOB_GPUS", "").split(",") if gpu])
    return own * int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) or None


SLURM = Scheduler(start_by_srun, slurm.node_states, slurm.is_preempted, allotted_gpus)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
