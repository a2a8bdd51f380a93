"""What the control groups of a job or container say of its memory (cgroup 1 and 2). Imports nothing heavy."""

import re
from collections.abc import Iterator
from pathlib import Path

_NAMES = {"": ("memory.max", "memory.current", "memory.events"),
          "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")}  # fmt: skip


def free_bytes() -> float:
    """Of main memory: what the machine has available, and no more than a limit of the job leaves."""
    known = dict(row.split(":", 1) for row in Path("/proc/meminfo").read_text().splitlines())
    return min(1024.0 * int(known["MemAvailable"].split()[0]), *_left())


def killed_for_memory() -> int:
    """How many processes of this process's own group the kernel has killed because the group had no more memory."""
    for home, (_, _, events) in _groups():
        if (home / events).is_file():
            found = re.search(r"^oom_kill (\d+)", (home / events).read_text(), re.M)
            return int(found[1]) if found else 0
    return 0


def _left() -> Iterator[float]:
    """What each limit leaves."""
    yield float("inf")
    for home, (limit, used, _) in _groups():
        for folder in (home, *home.parents):
            files = folder / limit, folder / used
            if all(file.is_file() for file in files) and (text := files[0].read_text().strip()) != "max":
                yield float(int(text) - int(files[1].read_text()))


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of this process's groups that count memory, and the names of the files there."""
    groups = Path("/proc/self/cgroup")
    for row in groups.read_text().splitlines() if groups.is_file() else ():
        _, kind, path = row.split(":", 2)
        if kind in _NAMES:
            yield Path("/sys/fs/cgroup", kind, path.lstrip("/")), _NAMES[kind]
