"""Ranks that die under srun are forked anew by their keepers, on all nodes; the job does not go back to the queue."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
from compare import assert_same_run
from forked import in_background, youngest_child

from launch.cluster import slurm
from launch.ledger import Folder, job_of, read_json, recoveries, starts
from masksup.base import clock
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.training.train import train

from .conftest import Cluster, Submit, all_idle, state, step, until_finished, wait

NODES = ("n1", "n2", "n3")
KILLS = 10
NODE_TIMEOUT = os.environ.get("MASKSUP_NODE_TIMEOUT", "30")
DOWN_S = 240 + 2 * int(NODE_TIMEOUT)
"""How long a test waits for what comes after a node was called down."""
EPOCHS = 400 if NODE_TIMEOUT == "30" else 3000  # on a quiet machine, too, longer than until SLURM calls a node down
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900 + 4 * int(NODE_TIMEOUT))]


def rank_processes(cluster: Cluster, run: Path) -> dict[int, int]:
    """The process that each keeper has forked as its rank, by rank: the youngest of its children."""
    found = {}
    for node in NODES:
        for keeper in cluster("node-ranks", node).split():
            words = Path(f"/proc/{keeper}/cmdline").read_bytes().split(b"\0")
            if os.fsencode(run) in words:
                variables = Path(f"/proc/{keeper}/environ").read_bytes().split(b"\0")
                rank = next(int(word[13:]) for word in variables if word.startswith(b"SLURM_PROCID="))
                found[rank] = youngest_child(int(keeper))
    return found


def went_on(run: Path) -> int:
    """After how many recoveries steps are done; -1: none are done."""
    beat = read_json(Folder(run).heartbeat)
    return int(beat["recovery"]) if "went_on_at" in beat and step(run, 1) >= 0 else -1


def test_a_killed_rank_of_any_node_is_forked_anew_and_the_run_ends_bit_equal(
    cluster: Cluster, config: Callable[..., Config], tmp_path: Path
) -> None:
    """Ten times: the first rank, one of the other node, and others by lot."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    killed = [3, 0, *random.Random(seed).choices(range(4), k=KILLS - 2)]
    settings = config(epochs=10 * KILLS, batch__micro=4, checkpoint__snapshot_seconds=0.5)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    clean = in_background(lambda: train(settings, tmp_path / "clean"))
    run = Submit(cluster, tmp_path / "config.yaml", tmp_path)("--gpus-per-node", "2", nodes=2)
    furthest = 0
    for kill, rank in enumerate(killed):
        wait(lambda kill=kill, last=furthest: went_on(run) == kill and step(run, 1) > last + 5, "steps")
        furthest = step(run, 1)
        os.kill(rank_processes(cluster, run)[rank], signal.SIGKILL)
        wait(lambda kill=kill: len(recoveries(Folder(run))) > kill, "a recovery")
    history, found = until_finished(run), recoveries(Folder(run))
    assert [start.outcome for start in history] == ["done"], "the job went through the queue"
    nodes = [f"rank {rank} on {history[0].nodes[rank // 2]}" for rank in killed]
    assert [recovery.why.split(" left")[0] for recovery in found] == nodes
    seconds = [recovery.seconds for recovery in found]
    print(f"{KILLS} recoveries: {median(seconds):.1f} s (median), {max(seconds):.1f} s (worst), "
          f"{sum(recovery.redone for recovery in found)} steps redone")  # fmt: skip
    row = state(run)
    assert (row.starts, row.recoveries) == (1, KILLS)
    assert row.recovery_seconds == sum(seconds)
    assert os.waitpid(clean, 0)[1] == 0
    assert_same_run(tmp_path / "clean", run)


@pytest.fixture
def patient(cluster: Cluster) -> Iterator[Cluster]:
    """SLURM takes a node for down after NODE_TIMEOUT seconds, later than keepers do."""
    cluster("configure", CLUSTER_NODE_TIMEOUT=NODE_TIMEOUT)
    cluster("controller-restart")
    wait(all_idle, "nodes that are there again")
    yield cluster
    for node in NODES:
        cluster("node-start", node)
        cluster("node-thaw", node)
    cluster("configure")
    cluster("controller-restart")
    wait(all_idle, "nodes that are there again")


@pytest.mark.slow
def test_a_node_of_three_is_cut_off_and_the_others_go_on_without_it(
    patient: Cluster, config: Callable[..., Config], tmp_path: Path
) -> None:
    """Frozen first, then without power; it comes back after SLURM has called it down, and changes nothing."""
    settings = config(epochs=EPOCHS, batch__micro=4, checkpoint__snapshot_seconds=1.0)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    clean = in_background(lambda: train(settings, tmp_path / "clean"))
    run = Submit(patient, tmp_path / "config.yaml", tmp_path)("--time", "60", nodes="1-3")
    wait(lambda: went_on(run) == 0 and step(run, 1) > 5, "steps")
    node = starts(Folder(run))[0].nodes[1]
    frozen = time.time()
    patient("node-freeze", node)
    wait(lambda: any(recovery.went_on for recovery in recoveries(Folder(run))), "a step without the node")
    (found,) = recoveries(Folder(run))
    print(f"{found.why}: first new step {(found.went_on or 0) - frozen:.1f} s after the freeze; snapshot {found.step}, "
          f"{found.redone} steps redone")  # fmt: skip
    assert found.ranks == 2
    time.sleep(max(frozen + 60 - time.time(), 0))
    patient("node-kill", node)
    wait(lambda: slurm.node_states((node,))[node].startswith("down"), "SLURM calls the node down", DOWN_S)
    before = step(run, 1)
    wait(lambda: step(run, 1) > before + 5, "steps after that")
    patient("node-start", node)
    history = until_finished(run, DOWN_S)
    print(f"ended {time.time() - frozen:.0f} s after the freeze")
    assert [start.outcome for start in history] == ["done"], "the job went through the queue"
    assert len(recoveries(Folder(run))) == 1
    assert os.waitpid(clean, 0)[1] == 0
    assert_same_run(tmp_path / "clean", run)
    assert (found.went_on or 0) - frozen < 20


@pytest.mark.slow
def test_a_node_that_wakes_up_while_the_others_go_on_leaves_and_publishes_nothing(
    patient: Cluster, config: Callable[..., Config], tmp_path: Path
) -> None:
    """Its keeper, its rank and its connections are as they were, and SLURM never missed it."""
    settings = config(epochs=80, batch__micro=4, checkpoint__snapshot_seconds=1.0)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    clean = in_background(lambda: train(settings, tmp_path / "clean"))
    run = Submit(patient, tmp_path / "config.yaml", tmp_path)("--time", "60", nodes="1-3")
    wait(lambda: went_on(run) == 0 and step(run, 1) > 5, "steps")
    (start,) = starts(Folder(run))
    patient("node-freeze", start.nodes[1])
    wait(lambda: any(recovery.went_on for recovery in recoveries(Folder(run))), "a step without the node")
    assert sorted(rank_processes(patient, run)) == [0, 1, 2], "the node that sleeps still has its keeper and its rank"
    before = step(run, 1)
    patient("node-thaw", start.nodes[1])
    wait(lambda: not patient("node-ranks", start.nodes[1]).split(), "the keeper that woke up leaves, and its rank")
    wait(lambda: step(run, 1) > before + 5, "steps of the others after that")
    history = until_finished(run, DOWN_S)
    assert [each.outcome for each in history] == ["done"], "the job went through the queue"
    assert [recovery.ranks for recovery in recoveries(Folder(run))] == [2]
    assert sorted(Folder(run).exits(1, 1).iterdir()) == [Folder(run).word(1, 1, rank) for rank in (0, 1)]
    assert os.waitpid(clean, 0)[1] == 0
    assert_same_run(tmp_path / "clean", run)


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "cut"), [("1-3", 0), (2, 1)])
def test_without_its_first_node_or_its_fewest_the_job_is_queued_again_by_what_is_left(
    patient: Cluster, config: Callable[..., Config], tmp_path: Path, nodes: int | str, cut: int
) -> None:
    """The first node has the launcher: the keepers of the others do it. What wakes up later changes nothing."""
    settings = config(epochs=60, batch__micro=4, checkpoint__snapshot_seconds=1.0)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    run = Submit(patient, tmp_path / "config.yaml", tmp_path)("--gpus-per-node", "0", nodes=nodes)
    wait(lambda: went_on(run) == 0 and step(run, 1) > 5, "steps")
    node = starts(Folder(run))[0].nodes[cut]
    frozen = time.time()
    patient("node-freeze", node)
    wait(lambda: slurm.show(str(job_of(Folder(run)))).state != "RUNNING", "the job leaves")
    print(f"queued again {time.time() - frozen:.1f} s after the freeze")
    wait(lambda: step(run, 2) >= 0, "a second start", DOWN_S)
    print(f"first new step {time.time() - frozen:.1f} s after the freeze")
    patient("node-thaw", node)
    first, second = until_finished(run)
    assert node not in second.nodes
    if cut:
        (found,) = recoveries(Folder(run))
        assert first.outcome == "lost"
        assert first.bad_nodes == [node]
        assert "found 1 rank left, expected 2" in found.why
        assert (second.first_step or 0) >= (found.step or 0) > 0, "what was in memory was not saved"
    else:
        assert first.outcome == "interrupted", "its launcher had a word to say"
    assert train(settings, tmp_path / "clean") == 0
    assert_same_run(tmp_path / "clean", run)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 0.0])
def test_what_a_killed_rank_costs_with_keepers_and_through_the_queue(
    cluster: Cluster, config: Callable[..., Config], tmp_path: Path, seconds: float
) -> None:
    """Prints a row of docs/reliability.md: seconds since the kill, and steps."""
    often = {"checkpoint__snapshot_seconds": seconds, "checkpoint__every_steps": 20}
    (tmp_path / "config.yaml").write_text(to_yaml(config(epochs=40, batch__micro=4, **often)))
    run = Submit(cluster, tmp_path / "config.yaml", tmp_path)("--gpus-per-node", "2", nodes=2)
    wait(lambda: step(run, 1) > 50, "steps")
    rank = rank_processes(cluster, run)[3] if seconds else int(cluster("node-ranks", "n2").split()[-1])
    killed, before = clock.now(), step(run, 1)
    os.kill(rank, signal.SIGKILL)
    wait(lambda: len(recoveries(Folder(run))) + len(starts(Folder(run))) == 2, "another beginning")
    until_finished(run)
    if seconds:
        (found,) = recoveries(Folder(run))
        times, redone = [found.broke, found.agreed, found.ready, found.went_on], found.redone
    else:
        (first, second), beat = starts(Folder(run)), read_json(Folder(run).heartbeat)
        times = [first.ended, second.began, beat["ready_at"], beat["went_on_at"]]
        redone = max(before, first.last_step or 0) - beat["from_step"]
    print(
        "noticed, agreed or started, restored, first new step:", *(f"{at - killed:.1f}" for at in times), f"; {redone}"
    )
    assert sorted(times) == times
