"""What processes and their children hold, of which nothing may grow."""

from collections.abc import Iterable, Iterator
from pathlib import Path

Sample = dict[str, float]
GROWTH = {"memory_mib": 16.0, "shared_mib": 4.0, "descriptors": 2.0, "threads": 1.0, "processes": 0.0}
"""By how much the median of the last third of a run may exceed that of the second."""


def taken(pids: Iterable[int]) -> Sample:
    """What the processes and their children hold now."""
    total = dict.fromkeys(GROWTH, 0.0)
    for place in _family(pids):
        try:
            status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
            total["memory_mib"] += int(status["VmRSS"].split()[0]) / 1024
            total["shared_mib"] += int(status["RssShmem"].split()[0]) / 1024
            total["threads"] += int(status["Threads"])
            total["descriptors"] += len(list((place / "fd").iterdir()))
            total["processes"] += 1
        except (OSError, KeyError):  # it has just ended
            continue
    return total


def _family(pids: Iterable[int]) -> Iterator[Path]:
    for pid in pids:
        yield Path(f"/proc/{pid}")
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            continue
        yield from (Path(f"/proc/{child}") for child in children)
