"""The batch script: built by submitit, so that what is submitted and what --dry-run shows is the same text."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.cluster import slurm
from launch.cluster.resources import Resources
from masksup.errors import UserError


@dataclass(frozen=True)
class Work:
    """What one job, or one array, is to do."""

    name: str
    runs: tuple[Path, ...]
    """Run folders; more than one makes an array."""
    code: Path
    """Snapshot of the packages."""
    keep: Path
    """Folder for the scripts, pickles and output of the batch job; others cannot read it."""
    module: str = "launch.start.rank"
    """What runs on every place of the first run."""
    outlives_nodes: bool = False
    """The job goes on when a node is lost; the runs then see to it themselves."""


def start(run: str) -> None:
    """What submitit unpickles on the first node: it becomes the launcher, with default handlers, signals blocked."""
    import os

    os.execv(sys.executable, [sys.executable, "-P", "-u", "-m", "launch.start.first_node", run])


def executor(work: Work, resources: Resources) -> Any:
    """A submitit executor whose script runs the launcher on the first node; srun is the launcher's own."""
    from submitit import SlurmExecutor

    if not slurm.here():
        raise UserError("found no sbatch and srun on this machine, expected a login node; or use --cluster local")
    python = f"env --block-signal=USR2,TERM {shlex.quote(sys.executable)} -P"
    made = SlurmExecutor(folder=work.keep, python=python, max_num_timeout=resources.max_timeouts)
    made.update_parameters(**parameters(work, resources))
    return made


def parameters(work: Work, resources: Resources) -> dict[str, Any]:
    """Parameters of submitit's executor."""
    nodes: dict[str, Any] = {}
    ranks: int | None = resources.ranks_on_a_node
    cpus = resources.cpus_per_rank
    if resources.fewest_nodes < resources.most_nodes:
        # Asked for tasks on a node, SLURM counts those of the fewest nodes, and gives no more nodes than tasks.
        ranks, cpus, nodes = None, resources.ranks_on_a_node * cpus, {"nodes": resources.nodes}
    given = {
        "job_name": work.name, "nodes": resources.most_nodes, "ntasks_per_node": ranks,
        "cpus_per_task": cpus, "signal_delay_s": resources.signal_seconds,
        "partition": resources.partition, "account": resources.account, "qos": resources.qos,
        "constraint": resources.constraint, "exclude": resources.exclude, "comment": resources.comment,
        "mem": resources.mem, "gpus_per_node": resources.gpu_request.get("gpus-per-node"), "gres": resources.gres,
        "array_parallelism": resources.array_parallel, "stderr_to_stdout": True, "wckey": None,
        "additional_parameters": {
            "time": resources.time, "requeue": True, **nodes,  # submitit counts with a number
            **({"no-kill": True} if work.outlives_nodes else {}),
            **{name: value if value else True for name, value in resources.sbatch.items()},
        },
        "setup": [
            # Bash would end at a signal to the whole job, before the run is queued again.
            "trap : USR2 TERM",
            *resources.setup,
            f"export PYTHONPATH={shlex.quote(str(work.code))}",
        ],
        "use_srun": False,
    }  # fmt: skip
    return {key: value for key, value in given.items() if value is not None or key == "wckey"}


def text(work: Work, resources: Resources) -> str:
    """The script as sbatch gets it."""
    made = executor(work, resources)
    if len(work.runs) > 1:
        made.parameters["map_count"] = len(work.runs)
    script: str = made._make_submission_file_text(made._submitit_command_str, "dry-run")
    return script


def submit(work: Work, resources: Resources) -> list[str]:
    """Hand it to SLURM. Returns a job id a run: 1234, or 1234_0, 1234_1, ..."""
    work.keep.mkdir(parents=True, exist_ok=True)
    work.keep.chmod(0o700)
    made = executor(work, resources)
    runs = [str(run) for run in work.runs]
    try:
        with slurm.own_options_unset():
            jobs = made.map_array(start, runs) if len(runs) > 1 else [made.submit(start, runs[0])]
    except Exception as error:  # submitit wraps what sbatch says
        raise UserError(f"sbatch: {slurm.complaint(str(error).split('stderr:')[-1])}") from None
    return [str(job.job_id) for job in jobs]
