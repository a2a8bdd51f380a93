"""Real processes: work on several ranks, forked from the test's own, and whether one still runs."""

import os
import pickle
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch.distributed as dist

from masksup.base.place import Place
from masksup.base.signals import end_with_parent
from masksup.config.schema import Config
from masksup.runtime.ranks import Group


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended; an ended one stays until its parent asks for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_end(pids: Collection[int], seconds: float = 10) -> bool:
    """Whether processes end within `seconds`: one that was killed takes a moment to be gone."""
    end = time.monotonic() + seconds
    while any(map(runs, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def youngest_child(pid: int) -> int:
    """The child of a process that began last; numbers of processes start anew when they have reached the highest."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(
        max(children, key=lambda child: int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19]))
    )


def in_background(work: Callable[[], int]) -> int:
    """The process that does it, and exits with what it gives; it ends with this one."""
    if child := os.fork():
        return child
    status = 1
    try:
        os.setsid()  # its own share of the machine, where the kernel shares it by session
        end_with_parent()
        status = work()
    finally:
        os._exit(status)


def on_ranks(world: int, folder: Path, work: Callable[[Group], Any], config: Config) -> list[Any]:
    """What `work` gives on each of `world` ranks. `folder`: a new one for each call."""
    children = []
    folder.mkdir(exist_ok=True)
    for rank in range(world):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
                group = Group(Place(rank, world, rank, world), config.parallel, dist.group.WORLD)
                (folder / f"{rank}.pickle").write_bytes(pickle.dumps(work(group)))
                dist.barrier()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * world
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(world)]
