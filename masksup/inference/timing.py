"""Where the time of `masksup-run` goes: preparation, inference and post-processing, an image; and its memory."""

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from masksup.base.words import counted
from masksup.inference.model_file import Exported, import_onnxruntime

PARTS = ("preparation", "inference", "post-processing")


class Clock:
    """Seconds of each part, summed over batches. The first batch, in which memory is set up, is kept apart.

    A batch also has its seconds by the clock, since the one before it: parts of two batches go on side by side.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[int, dict[str, float], float]] = []
        self._current: dict[str, float] = {}
        self._ended = time.perf_counter()

    def add(self, name: str, seconds: float) -> None:
        """Add to part `name` of the current batch what was measured elsewhere."""
        self._current[name] = self._current.get(name, 0.0) + seconds

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name` of the current batch."""
        began = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - began)

    def batch_done(self, images: int) -> None:
        """End the current batch, which had so many images."""
        now = time.perf_counter()
        self._batches.append((images, self._current, now - self._ended))
        self._current, self._ended = {}, now

    def lines(self) -> list[str]:
        """Mean ms an image of each part, without the first batch where there are others; and the memory."""
        timed = self._batches[1:] or self._batches
        images = sum(count for count, *_ in timed)
        if not images:
            return ["time: no image was read"]
        left_out = "the first batch left out" if len(self._batches) > 1 else "with the first batch, which sets up"
        lines = [f"mean ms an image, {counted(images, 'image')}, {left_out}:"]
        for name in PARTS:
            lines.append(f"  {name:<16}{1000 * sum(spent[name] for _, spent, _ in timed) / images:9.3f}")
        total = sum(seconds for *_, seconds in timed)
        lines.append(f"  {'all':<16}{1000 * total / images:9.3f}   ({images / total:.1f} images/s)")
        lines.append("a batch is prepared while the one before it is computed; all is by the clock")
        return [*lines, f"peak memory of the process: {peak_memory_mib():.0f} MiB"]


def peak_memory_mib() -> float:
    """The largest resident size of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # Linux counts in KiB


def facts(exported: Exported, device: str, threads: int, batch: int) -> list[str]:
    """What was timed, and on what."""
    cores = len(os.sched_getaffinity(0))
    card = exported.card
    return [
        f"onnxruntime {import_onnxruntime().__version__}, {device}, "
        f"{counted(threads or cores, 'thread')} of {counted(cores, 'core')}",
        f"{card.precision}, batch {batch}, {card.preprocessing.size} px, "
        f"{counted(len(card.decisions.classes), 'class')}",
    ]
