"""Mistakes are told in one line by the real SLURM's own knowledge, before anything is submitted; and preflight."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cluster import slurm
from launch.cluster.resources import Resources
from launch.ledger import Folder, Token, job_of, read_json, starts, write_json

from .conftest import ROOT, Cluster, Submit, state, step, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--partition", "hihg"], "did you mean 'high'"),
        (["--gpus-per-node", "3"], "a node of any partition has at most 2"),
        (["--nodes", "9", "batch.micro=1"], "SLURM refuses the job"),
        (["--mem", "1T"], "SLURM refuses the job"),
        (["--constraint", "h100"], "SLURM refuses the job"),
    ],
)
def test_nothing_is_submitted(
    running: Cluster, undisturbed: object, tmp_path: Path, words: list[str], expected: str
) -> None:
    """So nothing has to be cleared up after it, which `cluster` would do."""
    config = str(undisturbed()[0])  # type: ignore[operator]
    done = running.launch("submit", config, "--run-dir", str(tmp_path / "run"), *words, status=2)
    told = [line for line in done.stderr.splitlines() if "warning" not in line]
    assert len(told) == 1
    assert expected in told[0]
    assert "--cpus-per-rank" not in told[0]
    assert subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout == ""
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_folder_that_nodes_do_not_share_is_warned_of_and_found_on_the_nodes(
    cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    """Rank 0's token is looked for by every rank: here it is put away behind their back."""
    run = tmp_path / "run"
    folder = Folder(run)
    done = cluster.launch("submit", str(submit.file), "--run-dir", str(run), "--dry-run")
    assert "which other nodes most likely do not see" in done.stderr
    folder.path.mkdir(parents=True)
    write_json(folder.job, {"resources": Resources().model_dump()})
    code = (
        "from pathlib import Path; from launch.start.rank import wait_for_token\n"
        "from launch.ledger import Folder\n"
        f"wait_for_token(Folder(Path({str(run)!r})), {str(Token('1', 0))!r}, patience=1)"
    )
    left = subprocess.run(
        ["srun", "-n1", sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert left.returncode != 0
    assert "must be on a file system that all nodes share" in left.stderr


def test_preflight_on_two_nodes_finds_them_fit_and_blames_none_for_data_that_are_nowhere(
    cluster: Cluster, tmp_path: Path, undisturbed: object
) -> None:
    undisturbed()  # type: ignore[operator]
    words = [
        "preflight",
        "--folder",
        str(tmp_path / "disk"),
        "--nodes",
        "2",
        "--gpus-per-node",
        "0",
        "--cpus-per-rank",
        "1",
    ]
    done = cluster.launch(*words, "--time", "5")
    report = json.loads((tmp_path / "disk" / "preflight.json").read_text())
    assert report["bad"] == {}
    assert {card["host"] for card in report["cards"]} == {"n1", "n2"}
    assert all(card["gib_per_second"] > 0 for card in report["cards"])
    assert "preflight: fit" in done.stdout
    done = cluster.launch(*words, "--time", "5", "--data", str(tmp_path / "nothing"), status=2)
    assert re.search(r"masksup-launch: preflight: data: .*/nothing.*, on all of 2 nodes", done.stderr)
    assert "BAD" not in done.stdout


def test_throughput_is_measured_by_the_ranks_of_two_nodes(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    where = ["--nodes", "2", "--gpus-per-node", "0", "--cpus-per-rank", "1", "--time", "5", "--folder", str(folder)]
    done = cluster.launch("preflight", "--throughput", str(submit.file), *where, "--seconds", "1", "--json")
    found = json.loads(done.stdout)
    assert found["measured"]["ranks"] == 2
    assert found["measured"]["steps_measured"] > 0
    assert found["predicted"]["gpu_hours"] == pytest.approx(2 * found["predicted"]["run_hours"])
    assert list(folder.iterdir()) == []


def test_cancel_saves_first_and_resume_goes_on(cluster: Cluster, submit: Submit) -> None:
    run = submit("--preflight")
    job = str(job_of(Folder(run)))
    wait(lambda: step(run, 1) > 5, "some steps")
    assert "preflight: fit" in (run / "logs" / "start001-rank0.log").read_text()
    cluster.launch("cancel", str(run))
    wait(lambda: slurm.queue([job])[job].state == "CANCELLED", "SLURM calls it cancelled")
    assert state(run).state == "cancelled"
    saved = starts(Folder(run))[0].last_step
    cluster.launch("resume", str(run))
    wait(lambda: step(run, 2) > 0, "going on")
    assert starts(Folder(run))[-1].job != job
    assert read_json(Folder(run).heartbeat)["first_step"] == saved
    subprocess.run(["scancel", str(job_of(Folder(run)))], check=True)  # somebody who does not know this program
    wait(lambda: state(run).state == "cancelled", "the end")
    wait(lambda: not subprocess.run(["squeue", "-h"], capture_output=True).stdout, "an empty queue")
    assert len(starts(Folder(run))) == 2, "what was cancelled does not come back"
