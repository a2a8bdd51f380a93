"""Whatever happens to a job, the run comes back by itself and ends bit-equal to one that nothing happened to."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import assert_same_run

from launch.cluster import slurm
from launch.ledger import Folder, job_of, read_json, starts
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index

from .conftest import Cluster, Submit, all_idle, state, step, until_finished, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]
Undisturbed = Callable[[], tuple[Path, Path]]


def outcomes(run: Path) -> list[str | None]:
    return [start.outcome for start in starts(Folder(run))]


@pytest.mark.slow
def test_preempted_in_the_middle_of_an_epoch(cluster: Cluster, submit: Submit, undisturbed: Undisturbed) -> None:
    run = submit()
    wait(lambda: step(run, 1) > 20, "some steps")
    cluster.take(2)
    until_finished(run)
    assert outcomes(run) == ["preempted", "done"]
    assert starts(Folder(run))[1].first_step == starts(Folder(run))[0].last_step, "no step was done twice"
    assert_same_run(run, undisturbed()[1])


@pytest.mark.slow
def test_preempted_in_an_evaluation_and_at_the_end(
    cluster: Cluster, config: Callable[..., Config], tmp_path: Path
) -> None:
    """On 1,200 images, so that SLURM has the time to preempt it; at the end these are scored under masks."""
    for content in prepare_shapes(tmp_path / "root", train=1, val=1200, test=1, size=48, seed=4):
        write_index(tmp_path / content.split, content)
    file, clean = tmp_path / "long.yaml", tmp_path / "clean"
    many = {"data__eval": str(tmp_path / "val"), "eval__batch": 2, "eval__masked": ["low"]}
    file.write_text(to_yaml(config(epochs=20, **many)))
    local = ["--cluster", "local", "--gpus-per-node", "0", "--cpus-per-rank", "1"]
    cluster.launch("submit", str(file), "--run-dir", str(clean), *local)
    until_finished(clean)
    run = Submit(cluster, file, tmp_path)()
    wait(lambda: read_json(Folder(run).heartbeat).get("phase") == "evaluating", "an evaluation")
    cluster.take(2)
    wait(lambda: read_json(Folder(run).heartbeat).get("phase") == "finishing", "the end")
    cluster.take(2)
    until_finished(run)
    assert outcomes(run) == ["preempted", "preempted", "done"]
    assert starts(Folder(run))[0].last_step == 32, "it stopped in the evaluation after ten epochs"
    # Once or twice: SLURM may take it at the end before the first of the masked blocks is done.
    assert re.search(r"evaluation: goes on after \d+ of 600 blocks", (run / "logs" / "rank0.log").read_text())
    assert_same_run(run, clean)


@pytest.mark.slow
def test_preempted_while_starting(cluster: Cluster, submit: Submit, undisturbed: Undisturbed) -> None:
    run = submit()
    wait(lambda: slurm.queue([str(job_of(Folder(run)))])[str(job_of(Folder(run)))].state == "RUNNING", "a start")
    cluster.take(1)
    until_finished(run)
    assert len(starts(Folder(run))) == 2
    assert starts(Folder(run))[0].outcome == "preempted"
    assert (starts(Folder(run))[0].last_step or 0) < 5
    assert_same_run(run, undisturbed()[1])


@pytest.mark.slow
def test_requeued_by_an_operator_without_any_signal(cluster: Cluster, submit: Submit, undisturbed: Undisturbed) -> None:
    run = submit("--environment", "MASKSUP_TEST=1")
    wait(lambda: step(run, 1) > 70, "some steps")
    slurm.call("scontrol", "requeue", str(job_of(Folder(run))))
    until_finished(run)
    assert len(starts(Folder(run))) == 2
    assert_same_run(run, undisturbed()[1])


@pytest.mark.slow
def test_power_cut_of_another_node(cluster: Cluster, submit: Submit, undisturbed: Undisturbed) -> None:
    """Who notices first, SLURM or the ranks, is a race; the run comes back either way, without that node."""
    run = submit(nodes=2, name="two")
    clean = submit(nodes=2, name="clean")
    wait(lambda: step(run, 1) > 40, "some steps")
    node = starts(Folder(run))[0].nodes[1]
    cluster("node-kill", node)
    until_finished(run)
    first, second = starts(Folder(run))
    assert first.outcome in ("lost", "crashed", "interrupted")
    assert node not in second.nodes
    cluster("node-start", node)
    until_finished(clean)
    assert_same_run(run, clean)


def test_killed_rank_costs_its_node_one_start(cluster: Cluster, submit: Submit) -> None:
    """A node whose rank left no word is not used for the next start, though SLURM thinks well of it."""
    run = submit(nodes=2)
    wait(lambda: step(run, 1) > 5, "some steps")
    node = starts(Folder(run))[0].nodes[1]
    cluster.kill_ranks(node, run)
    until_finished(run)
    first, second = starts(Folder(run))
    assert first.outcome == "lost"
    assert first.bad_nodes == [node]
    assert node not in second.nodes


@pytest.mark.slow
def test_power_cut_of_the_first_node(cluster: Cluster, submit: Submit, undisturbed: Undisturbed) -> None:
    run = submit()
    wait(lambda: step(run, 1) > 70, "some steps")
    node = starts(Folder(run))[0].nodes[0]
    cluster("node-kill", node)
    until_finished(run)
    first, second = starts(Folder(run))
    assert first.outcome == "interrupted"
    assert node not in second.nodes
    assert_same_run(run, undisturbed()[1])


def test_controller_restarts_and_the_run_does_not_notice(
    cluster: Cluster, submit: Submit, undisturbed: Undisturbed
) -> None:
    run = submit()
    wait(lambda: step(run, 1) > 5, "some steps")
    cluster("controller-kill")
    time.sleep(2)
    cluster("controller-start")
    until_finished(run)
    assert outcomes(run) == ["done"]
    assert_same_run(run, undisturbed()[1])


@pytest.mark.slow
def test_preempted_while_the_controller_is_away(cluster: Cluster, submit: Submit, undisturbed: Undisturbed) -> None:
    """The ranks are asked to leave, and the launcher finds nobody to queue the run again: it waits."""
    run = submit()
    wait(lambda: step(run, 1) > 20, "some steps")
    slurm.call("scancel", "--signal=USR2", str(job_of(Folder(run))))
    cluster("controller-kill")
    wait(lambda: outcomes(run) == ["preempted"], "ranks that left")
    time.sleep(2)
    cluster("controller-start")
    until_finished(run)
    assert outcomes(run) == ["preempted", "done"]
    assert_same_run(run, undisturbed()[1])


@pytest.mark.slow
def test_paused_node_wakes_up_while_its_run_goes_on_elsewhere(
    cluster: Cluster, submit: Submit, undisturbed: Undisturbed
) -> None:
    """SLURM calls the node dead and starts the run on another one; then the old copy wakes up and must not write."""
    run = submit()
    wait(lambda: step(run, 1) > 20, "some steps")
    node = starts(Folder(run))[0].nodes[0]
    cluster("node-freeze", node)
    wait(lambda: step(run, 2) >= 0, "a second start elsewhere")
    assert starts(Folder(run))[1].nodes[0] != node
    cluster("node-thaw", node)
    until_finished(run)
    # The srun that wakes up ends, by its number, the step of the second start; SLURM tells them apart no better.
    history = starts(Folder(run))
    assert [a.outcome for a in history if a.outcome not in ("interrupted", "lost")] == ["done"]
    of_the_old = [path.name for path in (run / "checkpoints").glob("step-*-a01")]
    assert all(name <= f"step-{history[1].first_step or 0:09d}-a01" for name in of_the_old), (
        "it published nothing since"
    )
    assert_same_run(run, undisturbed()[1])


@pytest.mark.slow
def test_deaf_node_is_replaced_while_its_ranks_still_run(
    cluster: Cluster, submit: Submit, undisturbed: Undisturbed
) -> None:
    """Only slurmd stands still: the old ranks train on until they see that another start holds the run."""
    run = submit()
    wait(lambda: step(run, 1) > 5, "some steps")
    node = starts(Folder(run))[0].nodes[0]
    cluster("node-pause", node)
    history = until_finished(run)
    cluster("node-resume", node)
    assert history[-1].outcome == "done"
    assert_same_run(run, undisturbed()[1])


def test_preemption_that_only_sends_sigterm(cluster: Cluster, submit: Submit, undisturbed: Undisturbed) -> None:
    """Most clusters do not pass the job's own signal on at preemption."""
    cluster("configure", CLUSTER_USER_SIGNAL="0")
    cluster("controller-restart")
    try:
        wait(all_idle, "nodes that are there again")
        run = submit()
        wait(lambda: step(run, 1) > 20, "some steps")
        cluster.take(2)
        until_finished(run)
    finally:
        cluster("configure")
        cluster("controller-restart")
    assert outcomes(run) == ["preempted", "done"]
    assert "SIGTERM" in (run / "logs" / "start001-rank0.log").read_text()
    assert_same_run(run, undisturbed()[1])


@pytest.mark.slow
def test_preempted_on_a_cluster_without_accounting(cluster: Cluster, submit: Submit, undisturbed: Undisturbed) -> None:
    cluster("configure", CLUSTER_ACCOUNTING="0")
    cluster("controller-restart")
    try:
        wait(all_idle, "nodes that are there again")
        assert slurm.accounting({"1"}) is None
        run = submit()
        wait(lambda: step(run, 1) > 20, "some steps")
        cluster.take(2)
        until_finished(run)
        row = state(run)
        assert (row.state, row.starts) == ("finished", 2)
        assert cluster.launch("status", str(run), "--json").returncode == 0
    finally:
        cluster("configure")
        cluster("controller-restart")
        wait(all_idle, "nodes that are there again")
    assert outcomes(run) == ["preempted", "done"]
    assert_same_run(run, undisturbed()[1])


def test_time_limit(cluster: Cluster, submit: Submit, undisturbed: Undisturbed) -> None:
    """SLURM says a minute or more ahead that the limit comes; the run saves and goes on in the next job."""
    run = submit("--time", "2", "--signal-seconds", "45", "--environment", "OMP_NUM_THREADS=1", name="slow")
    wait(lambda: step(run, 1) > 5, "some steps")
    ranks = f"{job_of(Folder(run))}.0"
    subprocess.run(["scancel", "--signal=STOP", ranks], check=True)  # so that the run lasts as long as the limit
    wait(lambda: outcomes(run)[0] is not None or _age(run) > 80, "the signal, which wakes them, or a minute")
    subprocess.run(["scancel", "--signal=CONT", ranks])
    wait(lambda: outcomes(run)[0] is not None, "it leaves")
    # On a busy machine the next start would not end within the same limit.
    subprocess.run(["scontrol", "update", f"JobId={job_of(Folder(run))}", "TimeLimit=30"], check=True)
    until_finished(run)
    assert outcomes(run) == ["timeout", "done"]
    assert_same_run(run, undisturbed()[1])


def _age(run: Path) -> float:
    return time.time() - starts(Folder(run))[0].began


def test_status_agrees_with_squeue(cluster: Cluster, submit: Submit) -> None:
    run = submit()
    job = str(job_of(Folder(run)))
    wait(lambda: state(run).state == "running", "running")
    assert slurm.queue([job])[job].state == "RUNNING"
    blocker = cluster.take(60)
    wait(lambda: slurm.queue([job])[job].state == "PENDING", "waiting in the queue")
    wait(lambda: state(run).state == "waiting", "status says so", patience=5)
    subprocess.run(["scancel", blocker], check=True)
    wait(lambda: step(run, 2) >= 0, "a second start")
    cluster.launch("cancel", str(run))
    wait(lambda: slurm.queue([job])[job].state == "CANCELLED", "the end")
    wait(lambda: state(run).state == "cancelled", "status says so", patience=5)
