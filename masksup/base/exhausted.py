"""What a machine says when it has no more memory, shared memory or processes to give, told in one line.

Libraries say it with errors of many types, some of which only their text tells apart. Imports nothing heavy.
"""

import re
import shutil

from masksup.errors import JobError, UserError

LESS = (
    "a smaller batch.micro or model.grad_checkpointing=true needs less in training (so does parallel.sum=ring, where a "
    "rank has several micro-batches), a smaller eval.batch in scoring, fewer data.workers in both"
)
"""What a user can change."""
_SHARED = "/dev/shm"
_MEMORY = re.compile(
    r"out of memory|can(?:'|no)t allocate memory|failed to allocate|alloc_failed|bad_alloc|unable to allocate", re.I
)
_WANTED = re.compile(r"(?:tried|unable) to allocate .*?(?=\. |\.?$)", re.I | re.M)
_NO_SHARED = re.compile(r"shared memory\(shm\)|killed by signal: bus error", re.I)
_KILLED_WORKER = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: (\w+)")
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid\S* ([\d, ]+)\) exited unexpectedly")


def exhausted(error: BaseException) -> UserError | JobError | None:
    """The same in one line that names what takes less; None for an error that is about something else.

    UserError where the same would happen again (memory), JobError where the machine may be at fault.
    """
    if not isinstance(error, Exception):  # a request to leave
        return None
    text = f"{error}\n{error.__cause__ or ''}"  # torch says first that a process is gone, and there what killed it
    if _NO_SHARED.search(text):
        return JobError(_no_shared_memory())
    dead = _KILLED_WORKER.search(text) or _DEAD_WORKER.search(text)
    if dead is not None:
        how = f"was killed ({dead[2]})" if dead.re is _KILLED_WORKER else "ended without a word"
        return JobError(
            f"loader process {dead[1]} {how}: most likely the machine or the job had no more memory; smaller "
            "data.workers, data.prefetch or batch.micro need less"
        )
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return UserError(f"out of memory ({_gist(text)}): {LESS}")
    return None


def _no_shared_memory() -> str:
    try:
        whole, _, free = (f"{size / 2**20:.1f} MiB" for size in shutil.disk_usage(_SHARED))
        found = f" ({free} free of {whole})"
    except OSError:
        found = ""
    return (
        f"{_SHARED}: too small for the batches that loader processes hand over there{found}: make it larger (docker "
        "run --ipc=host or --shm-size=8g), or take smaller data.workers, data.prefetch or batch.micro"
    )


def _gist(text: str) -> str:
    """How much was wanted, as far as the message says it."""
    wanted = _WANTED.search(text)
    return ("on the GPU" if "CUDA" in text else "in main memory") + (f", {wanted[0]}" if wanted else "")
