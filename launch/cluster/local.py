"""The same job on this machine, without SLURM: a process of its own that outlives the shell (`launch.start.here`)."""

import os
import subprocess
import sys
import time
from pathlib import Path

from launch.cluster.sbatch_script import Work
from launch.ledger import Folder

_MODULES = {b"launch.start.here", b"launch.cluster.local", b"launch.local"}
"""What such a process runs; the others are its names in copies of the code that earlier versions made."""


def submit(work: Work) -> list[str]:
    """Start the runs, one after the other. Returns a job name a run, `local-PID` or `local-PID_K`."""
    work.keep.mkdir(parents=True, exist_ok=True)
    work.keep.chmod(0o700)
    log = work.keep / f"local-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "launch.start.here", *map(str, work.runs)],
            env={**os.environ, "PYTHONPATH": str(work.code)}, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True, cwd=Path.cwd(),
        )  # fmt: skip
    name = f"local-{process.pid}"
    return [name] if len(work.runs) == 1 else [f"{name}_{k}" for k in range(len(work.runs))]


def pid(job: str) -> int:
    return int(job.removeprefix("local-").partition("_")[0])


def is_local(job: str) -> bool:
    return job.startswith("local-")


def alive(job: str, run: Path) -> bool:
    """Whether the process of a local job still runs, and is this run's: numbers of processes are used again."""
    try:
        words = Path(f"/proc/{pid(job)}/cmdline").read_bytes().split(b"\0")  # nothing in one that has ended
    except (OSError, ValueError):
        return False
    return not _MODULES.isdisjoint(words) and os.fsencode(run) in words


def ranks(folder: Folder) -> list[int]:
    """Process numbers of a run's ranks on this machine, whoever started them; their loader workers among them."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if not {b"launch.start.rank", b"launch.start.keeper", b"launch.job"}.isdisjoint(words) and (
            os.fsencode(folder.run) in words
        ):
            found.append(int(place.name))
    return sorted(found)
