"""Two nodes, two ranks or four: one thing after the other happens to the run, and it ends as if nothing had."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare import assert_same_run

from launch.cluster import slurm
from launch.ledger import Folder, job_of, read_json, score_of, starts
from masksup.config.load import load_config, to_yaml
from masksup.config.schema import Config
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index

from .conftest import PATIENCE, ROOT, Cluster, step, until_finished, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3000)]
LOCAL = ["--cluster", "local", "--gpus-per-node", "0", "--cpus-per-rank", "1"]
ZERO_2 = {"parallel__engine": "deepspeed", "parallel__zero_stage": 2}


class Runs:
    """The same configuration on the ranks of two nodes, and on this machine alone."""

    def __init__(self, cluster: Cluster, folder: Path, config: Config, ranks_per_node: int = 2) -> None:
        self.cluster, self.folder, self.ranks_per_node = cluster, folder, ranks_per_node
        self.file, self.run = folder / "four.yaml", folder / "run"
        self.file.write_text(to_yaml(config))

    def local(self, name: str, ranks: int) -> Path:
        run = self.folder / name
        self.cluster.launch("submit", str(self.file), "--run-dir", str(run), *LOCAL, "--ranks-per-node", str(ranks))
        until_finished(run, 4 * PATIENCE)
        return run

    def submit(self, limit: str = "15", *settings: str) -> None:
        nodes = ["--nodes", "2", "--gpus-per-node", str(self.ranks_per_node), "--cpus-per-rank", "1"]
        words = ["--run-dir", str(self.run), *nodes, "--time", limit, "--signal-seconds", "60"]
        self.cluster.launch("submit", str(self.file), *settings, *words)

    def until(self, start: int, steps: int) -> None:
        wait(lambda: step(self.run, start) > steps, f"step {steps} of start {start}", 2 * PATIENCE)

    @property
    def outcomes(self) -> list[str | None]:
        return [start.outcome for start in starts(Folder(self.run))]


@pytest.mark.parametrize(
    ("ranks", "epochs", "cut", "engine"),
    [
        # test_range.py holds preemption and requeue of two ranks in its stead.
        pytest.param(2, 160, 1, {}, id="two", marks=pytest.mark.slow),
        pytest.param(4, 60, 1, {}, id="four", marks=pytest.mark.slow),
        pytest.param(4, 60, 1, ZERO_2, id="zero2", marks=pytest.mark.slow),
    ],
)
def test_preempted_requeued_and_cut_off_ends_bit_equal(
    cluster: Cluster, config: Callable[..., Config], tmp_path: Path, ranks: int, epochs: int, cut: int,
    engine: dict[str, Any],
) -> None:  # fmt: skip
    runs = Runs(cluster, tmp_path, config(epochs=epochs, batch__micro=4, **engine), ranks // 2)
    clean = runs.local("clean", ranks)
    runs.submit()
    runs.until(1, 20)
    cluster.take(1)
    runs.until(2, 35)
    slurm.call("scontrol", "requeue", str(job_of(Folder(runs.run))))
    runs.until(3, 50)
    node = starts(Folder(runs.run))[2].nodes[cut]
    cluster("node-kill", node)
    history = until_finished(runs.run, 4 * PATIENCE)

    assert history[0].outcome == "preempted"
    assert history[1].first_step == history[0].last_step, "what was done before the preemption was not done again"
    assert history[1].outcome in ("interrupted", "preempted"), "a requeue may ask the ranks with a SIGTERM, or not"
    assert history[2].outcome in ("lost", "crashed", "interrupted")
    assert node not in history[-1].nodes
    assert all((runs.run / "logs" / f"start001-rank{rank}.log").exists() for rank in range(ranks))
    assert_same_run(runs.run, clean)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param({}, id="ddp"), pytest.param(ZERO_2, id="zero2")])
def test_whatever_else_happens_ends_bit_equal(
    cluster: Cluster, config: Callable[..., Config], tmp_path: Path, engine: dict[str, Any]
) -> None:
    """Preempted while starting and in an evaluation, controller killed, first node cut off, a node that wakes up."""
    for content in prepare_shapes(tmp_path / "root", train=1, val=4000, test=1, size=48, seed=4):
        write_index(tmp_path / content.split, content)
    small = {"data__eval": str(tmp_path / "val"), "eval__batch": 2, "batch__micro": 4}
    runs = Runs(cluster, tmp_path, config(epochs=40, **small, **engine))
    clean = runs.local("clean", 4)
    runs.submit()
    job = str(job_of(Folder(runs.run)))
    wait(lambda: slurm.queue([job])[job].state == "RUNNING", "a start")
    cluster.take(1)  # while starting
    wait(lambda: len(runs.outcomes) == 2, "a second start", 2 * PATIENCE)
    assert runs.outcomes[0] in ("preempted", "lost", "interrupted")

    evaluates = Folder(runs.run).heartbeat
    wait(lambda: step(runs.run, 2) >= 0 and read_json(evaluates).get("phase") == "evaluating", "an evaluation",
         2 * PATIENCE)  # fmt: skip
    cluster.take(1)
    runs.until(3, 45)
    assert runs.outcomes[1] == "preempted"
    assert starts(Folder(runs.run))[1].last_step == 32
    assert re.search(r"evaluation: goes on after \d+ of 2000 blocks", (runs.run / "logs" / "rank0.log").read_text())

    cluster("controller-kill")
    cluster("controller-start")
    runs.until(3, 50)
    cluster("node-kill", starts(Folder(runs.run))[2].nodes[0])  # the first, which has launcher and rank 0
    runs.until(4, 60)
    frozen = starts(Folder(runs.run))[3].nodes[1]
    cluster("node-start", starts(Folder(runs.run))[2].nodes[0])
    cluster("node-freeze", frozen)
    wait(lambda: step(runs.run, 5) >= 0, "a start without the frozen node", 4 * PATIENCE)
    cluster("node-thaw", frozen)
    until_finished(runs.run, 4 * PATIENCE)
    assert_same_run(runs.run, clean)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param({}, id="ddp"), pytest.param(ZERO_2, id="zero2")])
def test_time_limit_of_four_ranks(
    cluster: Cluster, config: Callable[..., Config], tmp_path: Path, engine: dict[str, Any]
) -> None:
    runs = Runs(cluster, tmp_path, config(epochs=100, batch__micro=4, **engine))
    clean = runs.local("clean", 4)
    runs.submit("3")
    runs.until(1, 5)
    ranks = f"{job_of(Folder(runs.run))}.0"
    subprocess.run(["scancel", "--signal=STOP", ranks], check=True)  # so that the run lasts as long as the limit
    began = starts(Folder(runs.run))[0].began
    wait(
        lambda: runs.outcomes[0] is not None or time.time() - began > 130,
        "the signal, which wakes them, or two minutes",
    )
    subprocess.run(["scancel", "--signal=CONT", ranks])
    until_finished(runs.run, 4 * PATIENCE)
    assert runs.outcomes == ["timeout", "done"]
    assert starts(Folder(runs.run))[1].first_step == starts(Folder(runs.run))[0].last_step
    assert_same_run(runs.run, clean)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param({}, id="ddp"), pytest.param(ZERO_2, id="zero2")])
def test_four_ranks_score_as_one_process(cluster: Cluster, tmp_path: Path, engine: dict[str, Any]) -> None:
    """The quickstart with micro-batches that four ranks can share, and SGD: the same, and within a tenth of a point
    under ZeRO, whose last bits AdamW at the quickstart's rate lets grow into whole points (docs/reproducibility.md).
    """
    for content in prepare_shapes(tmp_path / "root"):
        write_index(tmp_path / content.split, content)
    data = {f"data.{name}": tmp_path / split for name, split in (("train", "train"), ("eval", "val"), ("test", "test"))}
    smaller = {"batch.micro": 8, "optim.name": "sgd", "optim.lr": 0.05, "epochs": 8}
    overrides = [f"{key}={value}" for key, value in {**data, **smaller}.items()]
    runs = Runs(cluster, tmp_path, load_config(ROOT / "configs/examples/quickstart.yaml", overrides)[0])
    settings = [f"{key.replace('__', '.')}={value}" for key, value in engine.items()]
    alone = runs.local("alone", 1)
    runs.submit("30", *settings)
    until_finished(runs.run, 8 * PATIENCE)
    four, one = (score_of(json.loads((folder / "result.json").read_text())) for folder in (runs.run, alone))
    print("mAP of four ranks and of one process:", four, one)
    assert four == (pytest.approx(one, abs=0.1) if engine else one)
