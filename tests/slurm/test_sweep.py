"""A sweep whose elements are preempted, killed and wrong: all that can finish do, and the table says the rest."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from launch.cluster.slurm import accounting, fields, queue
from launch.ledger import Folder, job_of, read_json, starts
from launch.watch.hours import gpu_hours

from .conftest import ROOT, Cluster, state, step, until_finished, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]
SETTINGS = {
    "lr=0.001": {"optim.lr": 0.001}, "lr=0.003": {"optim.lr": 0.003}, "lr=0.01": {"optim.lr": 0.01},
    "csra": {"model.head.name": "csra"}, "wide": {"batch.global": 24},
}  # fmt: skip


def write_sweep(folder: Path, base: Path, names: Sequence[str]) -> Path:
    """A sweep of some of SETTINGS, and one that cannot start; not all of its elements run at the same time."""
    asked = {
        "base": str(base), "set": {"epochs": 60},
        "list": [*({"name": name, **SETTINGS[name]} for name in names),
                 {"name": "wrong", "model.weights": str(folder / "nothing.pth")}],
        "parallel": len(names) // 2 + 1, "resources": {"cpus_per_rank": 1, "time": "10", "signal_seconds": 60},
    }  # fmt: skip
    file = folder / "six.yaml"
    file.write_text(yaml.safe_dump(asked, sort_keys=False))
    return file


@pytest.mark.parametrize(
    "names", [["lr=0.003", "csra"], pytest.param(list(SETTINGS), marks=pytest.mark.slow)], ids=["three", "six"]
)
def test_all_but_the_wrong_one_finish_and_the_sweep_again_submits_that_one(
    names: list[str], cluster: Cluster, undisturbed: object, tmp_path: Path
) -> None:
    sweep, folder = write_sweep(tmp_path, undisturbed()[0], names), tmp_path  # type: ignore[operator]
    out = cluster.launch("sweep", str(sweep), cwd=folder).stdout
    assert f"an array of {len(names) + 1}" in out
    home = folder / "runs" / "six"
    runs = {name: home / name / "seed5" for name in [*names, "wrong"]}
    array = str(job_of(Folder(runs["wrong"]))).partition("_")[0]

    if "lr=0.001" in names:
        wait(lambda: step(runs["lr=0.001"], 1) > 5, "the first element trains")
        subprocess.run(["scontrol", "requeue", str(job_of(Folder(runs["lr=0.001"])))], check=True)
    wait(lambda: step(runs["lr=0.003"], 1) > 5, "an element trains while others wait")
    cluster.launch("requeue", str(runs["lr=0.003"]))
    wait(lambda: step(runs["csra"], 1) > 5, "a later element trains")
    cluster.kill_ranks(starts(Folder(runs["csra"]))[0].nodes[0], runs["csra"])
    for name in names:
        until_finished(runs[name], patience=300)
    wait(lambda: state(runs["wrong"]).state == "failed", "the wrong one fails")

    assert [a.outcome for a in starts(Folder(runs["lr=0.003"]))] == ["preempted", "done"]
    assert [a.outcome for a in starts(Folder(runs["csra"]))] == ["lost", "done"]
    if "lr=0.001" in names:
        assert len(starts(Folder(runs["lr=0.001"]))) == 2
        assert [a.outcome for a in starts(Folder(runs["lr=0.01"]))] == ["done"], (
            "a requeue of one leaves the others alone"
        )
    told = json.loads(cluster.launch("status", str(home), "--json").stdout)
    assert {row["run"]: row["state"] for row in told} == {
        f"{name}/seed5": "failed" if name == "wrong" else "finished" for name in runs
    }
    assert "nothing.pth" in next(row["error"] for row in told if row["run"].startswith("wrong"))

    table = list(csv.DictReader((home / "results.csv").open()))
    *finished, wrong = table
    assert sorted(row["setting"] for row in finished) == sorted(names)
    scores = [float(row["mAP_mean"]) for row in finished]
    assert scores == sorted(scores, reverse=True)
    assert (wrong["setting"], wrong["missing"]) == ("wrong", "1")
    assert "nothing.pth" in wrong["error"]

    dry = cluster.launch("sweep", str(sweep), "--dry-run", cwd=folder).stdout
    assert dry.count("to submit") == 1
    again = cluster.launch("sweep", str(sweep), cwd=folder).stdout
    assert f"{len(runs)}: 1 submitted, 0 active, {len(names)} finished" in again
    assert str(job_of(Folder(runs["wrong"]))).partition("_")[0] != array
    wait(lambda: starts(Folder(runs["wrong"]))[-1].outcome == "wrong" and len(starts(Folder(runs["wrong"]))) == 2,
         "it fails again")  # fmt: skip

    for run in runs.values():
        same_as_accounts(run)


def same_as_accounts(run: Path) -> None:
    """Useful and lost hours by the launcher's own notes, and by SLURM's accounts, are those that sacct adds up to."""
    history = starts(Folder(run))
    rows = accounting({a.job for a in history})
    if rows is None:
        return
    wait(lambda: all(row.end for row in accounting({a.job for a in history}) or []), "sacct lags behind", 10)
    rows = [row for row in accounting({a.job for a in history}) or [] if row.start is not None]
    total = sum(row.seconds for row in rows)
    assert gpu_hours(history, rows).total * 3600 == pytest.approx(total, rel=0.02, abs=0.01)
    # Without accounts: SLURM counts whole seconds, and the time until it has cleared up.
    assert gpu_hours(history, None).total * 3600 == pytest.approx(total, rel=0.02, abs=3 * len(rows) + 5)


def test_the_script_without_submitit_comes_back_too(cluster: Cluster, undisturbed: object, tmp_path: Path) -> None:
    """And a second one neither takes its run away nor trains another configuration in its folder."""
    config, _ = undisturbed()  # type: ignore[operator]
    job = sbatch("train.sbatch", str(config), "epochs=60", cwd=tmp_path)
    run = tmp_path / "runs" / "config"
    wait(lambda: step(run, 1) > 5, "some steps")
    second = sbatch("train.sbatch", str(config), "epochs=60", cwd=tmp_path)
    wait(lambda: f"job {job} already works on this run" in output(second, tmp_path), "the second one is refused")
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    until_finished(run)
    assert [a.outcome for a in starts(Folder(run))] == ["preempted", "done"]
    assert read_json(Folder(run).job)["job"] == job
    wait(lambda: queue([job])[job].state == "COMPLETED", "SLURM calls it completed")
    third = sbatch("train.sbatch", str(config), "epochs=70", cwd=tmp_path)
    wait(lambda: "another configuration (epochs: 60.0 -> 70.0)" in output(third, tmp_path), "the third one is refused")


@pytest.mark.slow
def test_the_sweep_script_without_submitit_submits_what_is_missing(
    cluster: Cluster, undisturbed: object, tmp_path: Path
) -> None:
    """Named settings and a wrong one; an element is asked to leave, and comes back alone.

    The elements have what the job was given on its command line, and on top what the file's `resources` say.
    """
    sweep = write_sweep(tmp_path, undisturbed()[0], ["csra", "wide"])  # type: ignore[operator]
    tree = yaml.safe_load(sweep.read_text())
    tree["resources"] = {"time": "11", "environment": {"MARK": "here"}, "max_failures": 1}
    sweep.write_text(yaml.safe_dump(tree))
    home = sweep.parent / "runs" / "six"
    given = ["--gpus-per-node=0", "--mem=900", "--comment=two words", "--exclude=n3"]
    sbatch("sweep.sbatch", str(sweep), cwd=sweep.parent, options=given)
    csra, wide, wrong = (home / name / "seed5" for name in ("csra", "wide", "wrong"))
    wait(lambda: step(csra, 1) > 5, "an element trains")
    asked = fields(str(job_of(Folder(csra))))
    assert (asked["CPUs/Task"], asked["MinMemoryNode"], asked["TimeLimit"]) == ("1", "900M", "00:11:00")
    assert (asked["Comment"], asked["ExcNodeList"], asked["TresPerNode"]) == ("two words", "n3", "gres:gpu:0")
    resources = read_json(Folder(csra).job)["resources"]
    assert (resources["environment"], resources["max_failures"]) == ({"MARK": "here"}, 1)
    subprocess.run(["scancel", "--signal=USR2", str(job_of(Folder(csra)))], check=True)
    for run in (csra, wide):
        until_finished(run)
    wait(lambda: state(wrong).state == "failed", "the wrong one fails")
    assert [a.outcome for a in starts(Folder(csra))] == ["preempted", "done"]
    assert [a.outcome for a in starts(Folder(wide))] == ["done"]
    job = sbatch("sweep.sbatch", str(sweep), cwd=sweep.parent)
    wait(lambda: len(starts(Folder(wrong))) == 2, "the wrong one is tried again")
    assert "3 settings: 1 to run, 0 active, 2 finished" in (sweep.parent / f"masksup-sweep-{job}.out").read_text()
    assert len(starts(Folder(wide))) == 1


def output(job: str, folder: Path) -> str:
    file = folder / f"masksup-{job}.out"
    return file.read_text() if file.exists() else ""


def sbatch(script: str, *words: str, cwd: Path, options: Sequence[str] = ()) -> str:
    """Hand one of slurm/*.sbatch in as a person does. Returns the job's number."""
    options = ["--parsable", "--cpus-per-task=1", "--time=10", "--signal=USR2@60", *options]
    env = {**os.environ, "MASKSUP_ROOT": str(ROOT), "MASKSUP_PYTHON": sys.executable}
    return subprocess.run(
        ["sbatch", *options, str(ROOT / "slurm" / script), *words], cwd=cwd, env=env, capture_output=True, text=True,
        check=True,
    ).stdout.strip()  # fmt: skip
