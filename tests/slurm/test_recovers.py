"""Ranks that die under srun are forked anew by their keepers, on all nodes; the job does not go back to the queue."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import assert_same_run

from launch.start.ledger import Folder, read_json, recoveries
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.training.train import train

from .conftest import Cluster, Submit, state, step, until_finished, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
NODES = ("n1", "n2", "n3")


def rank_processes(cluster: Cluster, run: Path) -> dict[int, int]:
    """The process that each keeper has forked as its rank, by rank: the youngest of its children."""
    found = {}
    for node in NODES:
        for keeper in cluster("node-ranks", node).split():
            words = Path(f"/proc/{keeper}/cmdline").read_bytes().split(b"\0")
            if os.fsencode(run) in words:
                variables = Path(f"/proc/{keeper}/environ").read_bytes().split(b"\0")
                rank = next(int(word[13:]) for word in variables if word.startswith(b"SLURM_PROCID="))
                found[rank] = max(map(int, Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()))
    return found


def went_on(run: Path) -> int:
    """After how many recoveries steps are done; -1: none are done."""
    beat = read_json(Folder(run).heartbeat)
    return int(beat["recovery"]) if "went_on_at" in beat and step(run, 1) >= 0 else -1


def test_a_killed_rank_of_any_node_is_forked_anew_and_the_run_ends_bit_equal(
    cluster: Cluster, config: Callable[..., Config], tmp_path: Path
) -> None:
    settings = config(epochs=16, batch__micro=4, checkpoint__snapshot_seconds=0.5)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    run = Submit(cluster, tmp_path / "config.yaml", tmp_path)("--gpus-per-node", "2", nodes=2)
    assert train(settings, tmp_path / "clean") == 0
    for kill, rank in enumerate((3, 0)):
        wait(lambda kill=kill: went_on(run) == kill and step(run, 1) > 5, "steps")
        os.kill(rank_processes(cluster, run)[rank], signal.SIGKILL)
        wait(lambda kill=kill: len(recoveries(Folder(run))) > kill, "a recovery")
    history, found = until_finished(run), recoveries(Folder(run))
    assert [start.outcome for start in history] == ["done"], "the job went through the queue"
    assert [recovery.why.split(" left")[0] for recovery in found] == [f"rank 3 on {history[0].nodes[1]}",
                                                                      f"rank 0 on {history[0].nodes[0]}"]  # fmt: skip
    for recovery in found:
        print(f"{recovery.why}: snapshot {recovery.step}, {recovery.seconds:.1f} s, {recovery.redone} steps redone")
    row = state(run)
    assert (row.starts, row.recoveries) == (1, 2)
    assert row.recovery_seconds == sum(recovery.seconds for recovery in found)
    assert_same_run(tmp_path / "clean", run)
