"""A long run takes no more of its machine at the end than after its first third (R13)."""

import re
import time
from pathlib import Path
from statistics import median

import pytest
from ranks import Launcher
from taken import GROWTH, Sample, taken


@pytest.mark.parametrize(
    ("world", "steps"),
    [pytest.param(*size, marks=pytest.mark.slow) for size in ((2, 150), (1, 3000), (2, 3000))],
)
@pytest.mark.timeout(1800)
def test_r13_a_long_run_stays_flat(world: int, steps: int, job: Launcher, write_config, tmp_path: Path) -> None:
    """With loader processes, a row a step, evaluations, and a save every 10 or 20 steps."""
    config = write_config(
        epochs=steps * 16 / 50, data__workers=2, checkpoint={"every_steps": max(10, steps // 150)},
        eval={"batch": 10, "every_epochs": max(5, steps / 100)},
    )  # fmt: skip
    ranks = job.train(world, config, tmp_path / "run")
    samples: list[tuple[int, Sample]] = []
    end = time.monotonic() + 1500
    while None in ranks.codes():
        assert time.monotonic() < end
        samples.append((_step(tmp_path / "run" / "metrics.jsonl"), taken(ranks.pids)))
        time.sleep(0.05)
    assert ranks.wait() == [0] * world, ranks.text()
    windows = [
        [s for at, s in samples if low * steps < at <= high * steps] for low, high in ((1 / 3, 2 / 3), (2 / 3, 1))
    ]
    assert min(map(len, windows)) >= 5, [len(window) for window in windows]
    for name, most in GROWTH.items():
        before, after = (median(sample[name] for sample in window) for window in windows)
        print(f"{world} ranks, {steps} steps, {name}: {before:.1f} -> {after:.1f}")
        assert after - before <= most, name


def _step(metrics: Path) -> int:
    """The step of the last row that is whole, without reading the others."""
    if not metrics.exists():
        return 0
    found = re.findall(rb'"step": (\d+),.*\n', metrics.read_bytes()[-4000:])
    return int(found[-1]) if found else 0
