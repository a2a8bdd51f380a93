"""A real SLURM cluster of three nodes for all tests of this folder, started by slurm/test_cluster.sh."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from launch.cluster import slurm
from launch.ledger import Folder, Start, read_json, starts
from launch.watch.status import RunStatus, rows
from masksup.config.load import to_yaml
from masksup.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "slurm" / "test_cluster.sh"
FOLDER = Path(os.environ.get("CLUSTER_DIR", "/tmp/masksup-cluster-of-tests"))
# A port range of its own: somebody may have a cluster of test_cluster.sh running beside the tests.
SETTINGS = {"CLUSTER_DIR": str(FOLDER), "CLUSTER_PORT": os.environ.get("CLUSTER_PORT", "17600")}
PATIENCE = float(os.environ.get("SLURM_TESTS_PATIENCE", "240"))


class Cluster:
    """The cluster and what tests do to it."""

    def __call__(self, *command: str, **settings: str) -> str:
        """Run a command of test_cluster.sh."""
        done = subprocess.run(
            [SCRIPT, *command], env={**os.environ, **SETTINGS, **settings}, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def launch(self, *words: str, status: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run masksup-launch as a person does."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "launch", *words], capture_output=True, text=True, timeout=120, cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done

    def kill_ranks(self, node: str, run: Path) -> None:
        """End a run's ranks on a node as the kernel does when memory is short. One of them may end the others first."""
        pids = [pid for pid in self("node-ranks", node).split() if str(run).encode() in _words(pid)]
        assert pids, f"{run} has no rank on {node}"
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def take(self, seconds: float, nodes: str = "--nodes=3") -> str:
        """A job of the higher partition that takes the nodes away for a while."""
        script = f"#!/bin/sh\nsleep {seconds}\n"
        out = subprocess.run(
            ["sbatch", "--parsable", "-p", "high", "--exclusive", "--output=/dev/null", *nodes.split()],
            input=script, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return out.stdout.strip()


def _words(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it ended between the two looks
        return b""


def wait(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {patience:.0f} s"
        time.sleep(0.1)


def step(run: Path, start: int) -> int:
    """The last step of the newest start, if it is at least number `start`; else -1."""
    history = starts(Folder(run))
    beat = read_json(Folder(run).heartbeat)
    if len(history) < start or beat.get("token") != f"{history[-1].job}.{history[-1].restart}":
        return -1
    return int(beat.get("last_step", -1))


def until_finished(run: Path, patience: float = PATIENCE) -> list[Start]:
    """Wait for the result and for the launcher's last word. Returns the starts."""

    def told() -> str:
        logs = [
            file.read_text(errors="replace")[-3000:] for file in sorted(run.rglob("*.log")) + sorted(run.rglob("*.out"))
        ]
        return "\n".join([str(run), *map(str, starts(Folder(run))), *logs])

    end = time.monotonic() + patience
    while not (Folder(run).result.exists() and starts(Folder(run))[-1].outcome):
        assert time.monotonic() < end, told()
        time.sleep(0.1)
    history = starts(Folder(run))
    assert history[-1].outcome == "done", told()
    return history


def all_idle() -> bool:
    return all(s == "idle" for s in slurm.node_states(("n1", "n2", "n3")).values())


def state(run: Path) -> RunStatus:
    return rows([run], run.parent, hours=False)[0]


@pytest.fixture(scope="session")
def running() -> Iterator[Cluster]:
    missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        text = f"no SLURM to test with: {', '.join(missing) or 'not root'} (slurm/test_cluster.sh install)"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    cluster = Cluster()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the cluster is stopped whatever ends the tests
    SETTINGS["CLUSTER_ACCOUNTING"] = "1" if shutil.which("slurmdbd") and shutil.which("mariadbd") else "0"
    cluster("start")
    os.environ["SLURM_CONF"] = str(FOLDER / "etc" / "slurm.conf")
    try:
        yield cluster
    finally:
        cluster("stop")
        if not os.environ.get("KEEP_CLUSTER"):
            shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    """Whole again, and without jobs, after each test."""
    yield running
    for node in ("n1", "n2", "n3"):
        running("node-start", node)
        running("node-resume", node)
    running("controller-start")
    running("drain")
    # SLURM drains a node that could not tell a missing controller what became of its job.
    drained = [node for node, state in slurm.node_states(("n1", "n2", "n3")).items() if state.startswith("drain")]
    for node in drained:
        slurm.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
    wait(all_idle, "all nodes idle")


@pytest.fixture(scope="session")
def config(tiny_config: Callable[..., Config]) -> Callable[..., Config]:
    """A run of some ten seconds beside the imports, which saves only when it has to."""

    def make(**overrides: Any) -> Config:
        slow = {"epochs": 100, "eval__every_epochs": 10.0, "log__every_steps": 5, "precision__device": "cpu"}
        return tiny_config(**{**slow, **overrides})

    return make


@pytest.fixture(scope="session")
def undisturbed(
    config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], tuple[Path, Path]]:
    """The same run in one go, without any cluster: (its configuration file, its folder)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "config.yaml").write_text(to_yaml(config()))
    command = [
        sys.executable,
        "-P",
        "-m",
        "masksup",
        "train",
        str(folder / "config.yaml"),
        "--run-dir",
        str(folder / "run"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finished() -> tuple[Path, Path]:
        out, _ = process.communicate() if process.returncode is None else ("", "")
        assert process.returncode == 0, out
        return folder / "config.yaml", folder / "run"

    return finished


class Submit:
    """Submits the run of `config`."""

    def __init__(self, cluster: Cluster, file: Path, tmp_path: Path) -> None:
        self.cluster, self.file, self.tmp_path = cluster, file, tmp_path

    def __call__(self, *options: str, name: str = "run", nodes: int | str = 1) -> Path:
        run = self.tmp_path / name
        # Others name files so too; the job must not import this one.
        (self.tmp_path / "launch.py").write_text("raise SystemExit(9)\n")
        small = ["--cpus-per-rank", "1", "--time", "10", "--signal-seconds", "60"]
        self.cluster.launch(
            "submit", str(self.file), "--run-dir", str(run), "--nodes", str(nodes), *small, *options, cwd=self.tmp_path
        )
        return run


@pytest.fixture
def submit(cluster: Cluster, undisturbed: Callable[[], tuple[Path, Path]], tmp_path: Path) -> Submit:
    return Submit(cluster, undisturbed()[0], tmp_path)
