"""What `--cluster local` runs: each run to its end on this machine, and again after a crash, as a job of SLURM.

python -P -m launch.start.here RUN_FOLDER ...
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import launch
from launch.cluster.resources import Resources
from launch.ledger import Folder, Start, Token
from launch.start.start import Scheduler, job_resources, run_start, say
from launch.sweeps.halving import EarlyStop
from launch.sweeps.results import renew_results
from masksup.base import clock
from masksup.base.lived import lived

_FOLLOW_S = 60


def main(runs: list[str]) -> int:
    """Bring each run to its end. The exit status is 1 where one did not get there."""
    failed = 0
    for k, run in enumerate(runs):
        name = f"local-{os.getpid()}" + (f"_{k}" if len(runs) > 1 else "")
        failed += _to_the_end(Folder(Path(run)), name) != "done"
    return int(failed > 0)


def _to_the_end(folder: Folder, job: str) -> str:
    restart = 0
    while True:
        token = Token(job, restart)
        verdict = run_start(folder, token, ["localhost"], HERE, clock.now())
        renew_results(folder.run)
        if verdict.not_again is not None:
            say(f"not started again: {verdict.not_again}")
            return verdict.outcome
        restart += 1


def free_port() -> int:
    """A port that nobody listens on, for the ranks to meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_here(command: list[str], variables: dict[str, str], folder: Folder, start: Start) -> int:
    """All ranks as processes of this machine. Returns the highest exit status."""
    world = job_resources(folder).on(1).world
    ranks, port = [], str(free_port())
    for rank in range(world):
        env = {**os.environ, **variables, **_place(rank, world, port)}
        with folder.log(start.number, str(rank)).open("ab") as log:
            ranks.append(subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT))  # fmt: skip
    early = EarlyStop(folder)
    while all(process.poll() is None for process in ranks):
        time.sleep(0.2)
        if early.due():
            ranks[0].send_signal(signal.SIGUSR2)
    _await(ranks)
    for process in ranks:
        process.kill()  # nothing to one that has ended
        process.wait()
    highest: int = max(abs(process.returncode) for process in ranks)
    return highest


def _place(rank: int, world: int, port: str) -> dict[str, str]:
    """What tells a process which rank it is, as torchrun does."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip


def on_this_machine(module: str, arguments: list[str], resources: Resources) -> int:
    """Run a module as each rank of this machine, printing to standard error. Returns the highest exit status."""
    world, port, root = resources.world, str(free_port()), str(Path(launch.__file__ or "").parents[1])
    given = {"OMP_NUM_THREADS": str(resources.cpus_per_rank), **resources.environment, "PYTHONPATH": root}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=2,
            env={**os.environ, **given, **_place(rank, world, port)},
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        while any(process.poll() is None for process in ranks) and not any(process.poll() for process in ranks):
            time.sleep(0.05)
        _await(ranks)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    highest: int = max(abs(process.returncode) for process in ranks)
    return highest


def _await(ranks: "list[subprocess.Popen[bytes]]") -> None:
    """Until all have ended, once one has; at most a minute."""
    follow = lived() + _FOLLOW_S
    while any(process.poll() is None for process in ranks) and lived() < follow:
        time.sleep(0.2)


HERE = Scheduler(start_here, node_states=lambda _: {}, is_preempted=lambda _: False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
