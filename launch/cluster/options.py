"""Options of sbatch and srun that a site may add, and those that are the launcher's own."""

import re
from collections.abc import Iterable

from masksup.errors import UserError

_KEY = "{} is its key here"
_BACK = "the launcher needs its own, so that the run comes back"
_LOGS = "the launcher reads logs where it puts them"
_RANKS = "the launcher counts one rank a GPU by its own keys: nodes, gpus_per_node, ranks_per_node"
_NUMBER = "the launcher reads the job's number from sbatch"
_SHARED = {
    "nodes": _KEY.format("nodes"), "ntasks": _RANKS, "ntasks-per-node": _RANKS, "ntasks-per-core": _RANKS,
    "ntasks-per-socket": _RANKS, "ntasks-per-gpu": _RANKS, "tasks-per-node": _RANKS,
    "cpus-per-task": _KEY.format("cpus_per_rank"), "cpus-per-gpu": _KEY.format("cpus_per_rank"),
    "gpus": _KEY.format("gpus_per_node"), "gpus-per-node": _KEY.format("gpus_per_node"),
    "gpus-per-task": _KEY.format("gpus_per_node"), "gpus-per-socket": _KEY.format("gpus_per_node"),
    "output": _LOGS, "error": _LOGS, "input": _LOGS, "open-mode": _LOGS,
    "export": _KEY.format("environment"), "export-file": _KEY.format("environment"), "no-kill": _BACK,
    "help": _NUMBER, "usage": _NUMBER, "version": _NUMBER, "test-only": _NUMBER,
    "clusters": "the launcher asks this cluster alone about its jobs",
}  # fmt: skip
_SBATCH = _SHARED | {
    "array": "a sweep file makes an array", "signal": _KEY.format("signal_seconds"), "requeue": _BACK,
    "no-requeue": _BACK, "gres": _KEY.format("gres"), "mem": _KEY.format("mem"), "time": _KEY.format("time"),
    "partition": _KEY.format("partition"), "account": _KEY.format("account"), "qos": _KEY.format("qos"),
    "constraint": _KEY.format("constraint"), "exclude": _KEY.format("exclude"), "comment": _KEY.format("comment"),
    "job-name": "the name of the run folder is the job's", "wrap": "the launcher writes the script",
    "parsable": _NUMBER, "quiet": _NUMBER, "wait": _NUMBER, "chdir": _LOGS,
}  # fmt: skip
_SRUN = _SHARED | {
    "kill-on-bad-exit": _BACK, "wait": _BACK, "distribution": _RANKS, "multi-prog": _RANKS, "unbuffered": _LOGS,
    "label": _LOGS, "pty": _LOGS, "jobid": _NUMBER, "job-name": _NUMBER, "signal": _KEY.format("signal_seconds"),
    "time": _KEY.format("time"), "partition": _KEY.format("partition"), "array": _NUMBER,
}  # fmt: skip
OF_COMMAND = {"sbatch": _SBATCH, "srun": _SRUN}


def refuse_own(command: str, names: Iterable[str]) -> None:
    """UserError for an option of sbatch or srun that would undo what the launcher says itself.

    Both commands take any beginning of an option's name that is clear, so these are refused too.
    """
    own = OF_COMMAND[command]
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9]+(-[a-z0-9]+)*", name):
            raise UserError(f"{command}: found the option {name!r}, expected a long name such as 'reservation'")
        meant = name if name in own else next((option for option in own if option.startswith(name)), None)
        if meant is not None:
            raise UserError(f"{command}: found the option {name!r}, expected none that the launcher sets: {own[meant]}")


def words(options: dict[str, str]) -> list[str]:
    """Options as a command takes them; an empty value makes a bare flag."""
    return [f"--{name}={value}" if value != "" else f"--{name}" for name, value in options.items()]
