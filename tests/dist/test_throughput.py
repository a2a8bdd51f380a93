"""`masksup-launch preflight --throughput` with two ranks on this machine, as a person starts it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import masksup

REPOSITORY = Path(masksup.__file__).parents[1]


@pytest.mark.timeout(120)
def test_two_ranks_measure_together(write_config: Callable[..., Path], tmp_path: Path) -> None:
    file = write_config(data__workers=0)
    words = ["preflight", "--throughput", str(file), "--folder", str(tmp_path), "--seconds", "0.3", "--json"]
    local = ["--cluster", "local", "--gpus-per-node", "0", "--ranks-per-node", "2"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launch", *words, *local], capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    measured, predicted = found["measured"], found["predicted"]
    assert measured["ranks"] == 2
    assert (measured["global_batch"], measured["micro_batch"]) == (16, 4)
    assert measured["steps_measured"] > 0
    assert predicted["gpu_hours"] == pytest.approx(2 * predicted["run_hours"])
    assert "rank-hours" in done.stderr
    assert not list(tmp_path.iterdir())
