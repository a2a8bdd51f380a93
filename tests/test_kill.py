"""A run that is killed, or told to stop, as a process: what a cluster and a power cut do."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import assert_same_run

from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint
from masksup.runtime.metrics_rows import read_rows
from masksup.training.train import train

MakeConfig = Callable[..., Config]
KILLS = int(os.environ.get("MASKSUP_KILLS", "2"))
DEADLINE = 120


def start(config: Path, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "masksup", "train", str(config), "--run-dir", str(run)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def to_the_end(config: Path, run: Path) -> str:
    out, _ = (process := start(config, run)).communicate(timeout=DEADLINE)
    assert process.returncode == 0, out
    return out


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "nothing happened before the deadline"
        time.sleep(0.002)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
    return bool(caught >> (number - 1) & 1)


@pytest.fixture(scope="module")
def clean(tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("kill")
    # Enough steps that kills fall anywhere; a save at every second step, so that some fall into one.
    config = tiny_config(epochs=8, data__workers=1, checkpoint={"every_steps": 2})
    (folder / "config.yaml").write_text(to_yaml(config))
    assert train(config, folder / "clean") == 0
    return folder / "config.yaml", folder / "clean"


def test_kill_at_random_instants_ends_bit_equal(clean: tuple[Path, Path], tmp_path: Path) -> None:
    config, reference = clean
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    instants = random.Random(seed)
    run = tmp_path / "run"
    total = read_rows(reference / "metrics.jsonl")[-1]["step"]
    for _ in range(KILLS):
        before = len(read_rows(run / "metrics.jsonl"))
        extra = instants.randrange(0, max(total // KILLS, 1))
        process = start(config, run)
        wait_for(lambda b=before, e=extra: len(read_rows(run / "metrics.jsonl")) > b + e, process)  # type: ignore[misc]
        time.sleep(instants.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=DEADLINE)
    to_the_end(config, run)
    assert_same_run(run, reference)
    assert not list((run / "checkpoints").glob(".partial-*"))


@pytest.mark.parametrize(
    "name",  # short: one rank in tests/dist/test_failures.py, and SLURM's own
    [pytest.param(name, marks=pytest.mark.slow) for name in ("SIGTERM", "SIGUSR2", "SIGINT")],
)
def test_signal_to_the_whole_job_saves_and_leaves_with_75(name: str, clean: tuple[Path, Path], tmp_path: Path) -> None:
    """SLURM and a terminal signal every process, loader workers too."""
    config, reference = clean
    process = start(config, tmp_path)
    wait_for(lambda: len(read_rows(tmp_path / "metrics.jsonl")) > 3, process)
    os.killpg(process.pid, getattr(signal, name))
    told_at = read_rows(tmp_path / "metrics.jsonl")[-1]["step"]
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 75, out
    assert f"stopped by {name}" in out
    stopped_at = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[0]).meta["step"]
    assert stopped_at <= told_at + 2, "the step under way, and one whose row was not written yet"
    assert stopped_at == max(row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] != "event")
    if name == "SIGTERM":
        assert f"going on from step {stopped_at}" in to_the_end(config, tmp_path)
        assert_same_run(tmp_path, reference)


def test_signal_while_starting_is_not_lost(clean: tuple[Path, Path], tmp_path: Path) -> None:
    config, _ = clean
    process = start(config, tmp_path)
    wait_for(lambda: catches(process.pid, signal.SIGTERM), process)  # after 0.1 s; torch needs seconds to load
    process.send_signal(signal.SIGTERM)
    assert not (tmp_path / "metrics.jsonl").exists(), "still starting"
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 75, out
    assert list_checkpoints(tmp_path / "checkpoints")


def test_two_processes_cannot_train_in_one_folder(clean: tuple[Path, Path], tmp_path: Path) -> None:
    config, _ = clean
    first = start(config, tmp_path)
    wait_for(lambda: len(read_rows(tmp_path / "metrics.jsonl")) > 0, first)
    first.send_signal(signal.SIGSTOP)  # so that it cannot finish meanwhile
    second = start(config, tmp_path)
    out, _ = second.communicate(timeout=DEADLINE)
    first.kill()
    first.communicate(timeout=DEADLINE)
    assert second.returncode == 2, out
    assert f"another process is training in this run folder (pid {first.pid}" in out
