"""A run that breaks while its loader processes live ends within seconds, says why, and leaves none of them behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from forked import all_end

from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.runtime.metrics_rows import read_rows

DEADLINE = 120
AFTER = 30  # seconds for what takes well below ten on a machine without other work
TRAIN = "import sys; from masksup.cli import main; sys.exit(main(['train', *sys.argv[1:]]))"
A_BUG = """
from masksup.engine.step import Stepper
real = Stepper.step
def step(self, batches, number, *rest):
    assert number != 3, "a bug"
    return real(self, batches, number, *rest)
Stepper.step = step
"""


@pytest.fixture
def config(tiny_config: Callable[..., Config], tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(tiny_config(epochs=5000, data__workers=2, data__eval=None, model__size=64)))
    return file


def start(config: Path, probe: str = "", *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-P", "-c", probe + TRAIN, str(config), "--run-dir", str(config.parent / "run")]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def steps(config: Path, process: subprocess.Popen[str], count: int) -> list[int]:
    """Wait for so many steps. The loader processes that work then."""
    end = time.monotonic() + DEADLINE
    while len(read_rows(config.parent / "run" / "metrics.jsonl")) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no steps before the deadline"
        time.sleep(0.01)
    return children(process.pid)


def end_of(process: subprocess.Popen[str], seconds: float = AFTER) -> str:
    try:
        return process.communicate(timeout=seconds)[0]
    finally:
        process.kill()


def test_a_loader_process_that_the_machine_kills(config: Path) -> None:
    """As where memory runs out: the kernel kills one of them."""
    process = start(config)
    workers = steps(config, process, 5)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    out = end_of(process)
    assert process.returncode == 1, out
    assert all_end(workers)
    told = [line for line in out.splitlines() if "masksup:" in line]
    assert len(told) == 1, out
    assert all(word in told[0] for word in (str(workers[0]), "memory", "data.workers", "batch.micro")), told
    assert "Traceback" not in out


@pytest.mark.parametrize(
    "extra", [(), pytest.param(("--user", "--map-root-user"), marks=pytest.mark.slow)], ids=["root", "user"]
)
def test_shared_memory_that_is_full(extra: tuple[str, ...], config: Path) -> None:
    small = "mount -t tmpfs -o size=100k none /dev/shm"
    unshare = ["unshare", *extra, "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own, which this machine does not allow")
    process = start(config, "", *unshare, "sh", "-c", f'{small} && exec "$@"', "sh")
    out = end_of(process, DEADLINE)
    assert process.returncode == 1, out
    told = [line for line in out.splitlines() if "masksup:" in line]
    assert len(told) == 1, out
    assert all(word in told[0] for word in ("/dev/shm", "data.workers", "batch.micro")), told
    assert "Traceback" not in out


def test_a_bug_keeps_its_traceback_and_leaves_nobody(config: Path) -> None:
    process = start(config, A_BUG)
    workers: set[int] = set()
    end = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError):  # it has just ended
            workers |= set(children(process.pid))
        time.sleep(0.01)
    out = end_of(process, 0.1)
    assert process.returncode == 1, out
    assert out.rstrip().endswith("AssertionError: a bug")
    assert len(workers) >= 2
    assert all_end(workers)
