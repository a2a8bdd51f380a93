"""Two nodes, four ranks: one thing after the other happens to the run, and it ends as if nothing had."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import assert_same_run

from launch import slurm
from launch.ledger import Folder, attempts, job_of, score_of
from masksup.config import Config
from masksup.config_file import to_yaml

from .conftest import PATIENCE, Cluster, step, until_finished, wait

pytestmark = pytest.mark.slurm
WORDS = ["--cpus-per-rank", "1", "--time", "15", "--signal-seconds", "60"]


@pytest.mark.timeout(3000)
def test_preempted_requeued_and_cut_off_ends_bit_equal(
    cluster: Cluster, config: Callable[..., Config], tmp_path: Path
) -> None:
    file = tmp_path / "four.yaml"
    file.write_text(to_yaml(config(epochs=40, batch__micro=4)))
    clean, run, alone = (tmp_path / name for name in ("clean", "run", "alone"))
    local = ["--cluster", "local", "--gpus-per-node", "0"]
    cluster.launch(
        "submit", str(file), "--run-dir", str(clean), *local, "--ranks-per-node", "4", "--cpus-per-rank", "1"
    )
    until_finished(clean, 4 * PATIENCE)

    cluster.launch("submit", str(file), "--run-dir", str(run), "--nodes", "2", "--gpus-per-node", "2", *WORDS)
    wait(lambda: step(run, 1) > 20, "some steps")
    cluster.take(1)
    wait(lambda: step(run, 2) > 35, "some steps of the second start")
    slurm.call("scontrol", "requeue", str(job_of(Folder(run))))
    wait(lambda: step(run, 3) > 50, "some steps of the third start")
    node = attempts(Folder(run))[2].nodes[1]
    cluster("node-kill", node)
    until_finished(run, 4 * PATIENCE)

    history = attempts(Folder(run))
    assert history[0].outcome == "preempted"
    assert history[1].first_step == history[0].last_step, "what was done before the preemption was not done again"
    assert history[1].outcome == "interrupted"
    assert history[2].outcome in ("lost", "crashed", "interrupted")
    assert node not in history[-1].nodes
    assert all((run / "logs" / f"attempt001-rank{rank}.log").exists() for rank in range(4))
    assert_same_run(run, clean)

    cluster.launch("submit", str(file), "--run-dir", str(alone), *local)
    until_finished(alone, 4 * PATIENCE)
    scores = [score_of(json.loads((folder / "result.json").read_text())) for folder in (run, alone)]
    print("mAP of four ranks and of one:", scores)
