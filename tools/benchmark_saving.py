"""How much a save holds up the training: a state of many MB is copied, then written while the steps go on.

    python -m tools.benchmark_saving --mb 300 --step 0.5 --saves 20

It prints the median and the worst of the time that the training thread stands still for a save, which is to copy the
state and hand it over; what a step takes while a checkpoint is being written and otherwise; and the share of the time
that one save every `--minutes` costs.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from masksup.runtime.checkpoint import snapshot
from masksup.runtime.saver import Saver

EVERY = 10  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=300, help="size of the state")
    parser.add_argument("--step", type=float, default=0.5, metavar="SECONDS", help="length of a step, about")
    parser.add_argument("--saves", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=15.0, help="between two saves of a real run")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: a temporary folder)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        stalls, alone, beside = measure(Path(folder), arguments.mb, arguments.step, arguments.saves)
    slower = statistics.median(beside) - statistics.median(alone)
    writes = len(beside) / arguments.saves
    cost = (statistics.median(stalls) + max(slower, 0) * writes) / (60 * arguments.minutes)
    print(f"state of {arguments.mb} MB, {arguments.saves} saves")
    print(f"the training stands still for {_ms(stalls)} a save")
    print(f"a step takes {_ms(alone)}, and {_ms(beside)} while a checkpoint is written ({writes:.1f} steps a save)")
    print(f"a save every {arguments.minutes:g} minutes costs {100 * cost:.3f} % of the time")


def measure(folder: Path, megabytes: int, seconds: float, saves: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds: stalls of each save, steps without a save under way, and steps with one."""
    tensors = {f"model/{i}": torch.randn(2**18) for i in range(megabytes)}  # 1 MiB each, as of a network's many layers
    saver, work = Saver(folder, start=1, keep=2), _work(seconds)
    stalls: list[float] = []
    steps: dict[bool, list[float]] = {True: [], False: []}
    for step in range(1, saves * EVERY + 1):
        began, busy = time.perf_counter(), saver.behind() is not None
        work()
        steps[busy].append(time.perf_counter() - began)
        if step % EVERY == 0:
            saver.wait()
            began = time.perf_counter()
            saver.save(snapshot(tensors, {"step": step}), saver.name(step), None)
            stalls.append(time.perf_counter() - began)
    saver.wait()
    return stalls, steps[False], steps[True]


class _work:
    """Arithmetic of about so many seconds, as a step of a training."""

    def __init__(self, seconds: float) -> None:
        self.x, self.times = torch.randn(512, 512), 1
        self()
        began = time.perf_counter()
        self()
        self.times = max(round(seconds / (time.perf_counter() - began)), 1)

    def __call__(self) -> None:
        for _ in range(self.times):
            (self.x @ self.x).sum().item()


def _ms(values: list[float]) -> str:
    if not values:
        return "no time"
    return f"{1e3 * statistics.median(values):.0f} ms (median; worst {1e3 * max(values):.0f} ms)"


if __name__ == "__main__":
    main()
