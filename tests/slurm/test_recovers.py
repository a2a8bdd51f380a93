"""Ranks that are killed under srun are forked anew by their keepers; the job does not go back to the queue."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import assert_same_run

from launch.start.ledger import Folder, read_json, recoveries

from .conftest import PATIENCE, Cluster, Submit, state, step, until_finished, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
RANKS = ("--gpus-per-node", "2", "--environment", "OMP_NUM_THREADS=1", "checkpoint.snapshot_seconds=1")


def went_on(run: Path) -> int:
    """After how many recoveries steps are done."""
    beat = read_json(Folder(run).heartbeat)
    return int(beat["recovery"]) if "went_on_at" in beat and step(run, 1) >= 0 else -1


def test_killed_ranks_go_on_within_their_job_and_a_preemption_reaches_them(
    cluster: Cluster, submit: Submit, undisturbed: Callable[[], tuple[Path, Path]]
) -> None:
    run = submit(*RANKS)
    for killed in range(2):
        wait(lambda: went_on(run) == killed and step(run, 1) > 10, "steps")
        wait(lambda: rank_process(cluster, run, killed), "a process of the rank")
        os.kill(rank_process(cluster, run, killed), signal.SIGKILL)
        wait(lambda: len(recoveries(Folder(run))) > killed, "a recovery")
    wait(lambda: went_on(run) == 2, "steps")
    cluster.take(15)
    history = until_finished(run, 2 * PATIENCE)
    assert [start.outcome for start in history] == ["preempted", "done"]
    assert [recovery.start for recovery in recoveries(Folder(run))] == [1, 1]
    assert (state(run).starts, state(run).recoveries) == (2, 2)
    assert_same_run(undisturbed()[1], run)


def rank_process(cluster: Cluster, run: Path, rank: int) -> int:
    """The youngest process that the keeper of this rank has forked; 0 where there is none."""
    for node in ("n1", "n2", "n3"):
        for keeper in map(int, cluster("node-ranks", node).split()):
            own = f"SLURM_PROCID={rank}".encode() in Path(f"/proc/{keeper}/environ").read_bytes().split(b"\0")
            if own and os.fsencode(run) in Path(f"/proc/{keeper}/cmdline").read_bytes().split(b"\0"):
                return max(map(int, Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()))
    return 0
