"""A number is not a job: what has the number of a run's job is looked at before anything is signalled."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.cluster import slurm
from launch.cluster.resources import Resources
from launch.ledger import Folder, Start, Token, begin, end, write_json
from launch.start.decide import Left, first_error, outcome, why_not_again
from launch.start.rank import refuse_other_code
from launch.watch.status import judge, rows
from masksup.base.words import shortened
from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.runtime import heartbeat
from masksup.training.train import train

KEPT = {
    "cluster_name": "big",
    "name": "masksup-a",
    "user": "ada",
    "submitted": time.mktime((2026, 11, 2, 3, 4, 5, 0, 0, -1)),
}
# number | state | reason | restarts | submitted | ended | user | name
OWN = "7|RUNNING|None|0|2026-11-02T03:04:05|N/A|ada|masksup-a"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """A SLURM that says what it is told to, and writes down each question and each signal."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(jobs: str, name: str = "big") -> None:
        slurm.cluster_name.cache_clear()
        says = {
            "squeue": '[ "$2" = -s ] && echo $4.batch && echo $4.0 && exit\n'  # steps
            f"echo squeue >> {tmp_path}/asked\ncat {tmp_path}/jobs",
            "scontrol": f'echo "ClusterName = {name}"',
                "scancel": f'echo "$*" >> {tmp_path}/signals', "sbatch": "exit 1", "srun": "exit 1", "sacct": "exit 1",
        }  # fmt: skip
        (tmp_path / "jobs").write_text(jobs + "\n")
        for command, text in says.items():
            (folder / command).write_text(f"#!/bin/sh\n{text}\n")
            (folder / command).chmod(0o755)

    yield put
    slurm.cluster_name.cache_clear()


def a_run(home: Path, name: str, job: str = "7", **more: object) -> Folder:
    folder = Folder(home / name)
    write_json(folder.job, {"job": job, "cluster": "slurm", "resources": {}, **more})
    folder.config.write_text("")
    return folder


@pytest.mark.parametrize(
    ("line", "name", "signalled"),
    [
        (OWN, "big", True),
        (OWN.replace("|0|2026-11-02T03:04:05", "|1|2026-11-05T03:04:05"), "big", True),  # queued again
        (OWN, "other", False),
        (OWN.replace("|ada|", "|bob|"), "big", False),
        (OWN.replace("masksup-a", "sleep"), "big", False),
        (OWN.replace("2026-11-02", "2026-11-09"), "big", False),
        (OWN.replace("|0|2026-11-02", "|1|2026-10-02"), "big", False),
    ],
)
@pytest.mark.parametrize("words", [["cancel"], ["cancel", "--now"], ["requeue"]])
def test_a_job_that_only_has_the_number_is_left_alone(
    cluster: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    line: str, name: str, signalled: bool, words: list[str],
) -> None:  # fmt: skip
    folder = a_run(tmp_path / "runs", "a", identity=KEPT)
    cluster(line, name)
    main([*words, str(folder.run)])
    assert (tmp_path / "signals").exists() == signalled
    assert folder.cancelled.exists() == (signalled and words[0] == "cancel")
    assert ("nothing is done to it" in capsys.readouterr().out) != signalled


def test_the_notes_of_an_older_version_are_still_read(cluster: Callable[..., None], tmp_path: Path) -> None:
    folder = a_run(tmp_path / "runs", "a", submitted=5.0)
    cluster(OWN)
    assert main(["cancel", str(folder.run)]) == 0
    assert (tmp_path / "signals").read_text() == "--signal=USR2 7.0\n"


def test_slurm_is_asked_once_for_many_runs(cluster: Callable[..., None], tmp_path: Path) -> None:
    for k in range(30):
        a_run(tmp_path / "runs", f"r{k}", f"8_{k}")
    cluster("\n".join(f"8_{k}|RUNNING|None|0|N/A|N/A|ada|x" for k in range(30)))
    assert main(["cancel", str(tmp_path / "runs")]) == 0
    assert (tmp_path / "asked").read_text().count("squeue") == 1
    assert len((tmp_path / "signals").read_text().splitlines()) == 30


def test_a_run_of_another_user_is_a_row_and_hinders_no_other(
    cluster: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "runs"
    theirs, ours = a_run(home, "a"), a_run(home, "b")
    theirs.path.chmod(0o700)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 65534, 65534)
    os.chown(theirs.path, 0, 0)
    for path in tmp_path.parents[:-1] if os.geteuid() == 0 else ():
        if not path.stat().st_mode & 1:
            path.chmod(path.stat().st_mode | 0o11)
    cluster(OWN)
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user for a while")
    os.chown(tmp_path / "jobs", 65534, 65534)
    os.seteuid(65534)
    try:
        assert main(["status", str(home), "--json"]) == 0
        rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
        assert main(["cancel", str(home)]) == 2
    finally:
        os.seteuid(0)
    assert (rows["a"]["state"], rows["b"]["state"]) == ("closed", "starting")
    assert "you may not look into it" in rows["a"]["note"]
    told = capsys.readouterr()
    assert f"{theirs.run}: this run is " in told.err
    assert f"{ours.run}: job 7 was asked" in told.out


def test_crashes_before_a_person_submitted_again_are_forgiven(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for restart in range(4):
        end(folder, begin(folder, Token("7", restart), ["n1"], 1), "crashed")
    resources = Resources(max_failures=3)
    history = [Start(k + 1, "7", k, 0.0, outcome="crashed") for k in range(4)]
    assert "4 crashes" in str(why_not_again("crashed", history, resources))
    assert why_not_again("crashed", [*history, Start(5, "8", 0, 0.0, outcome="crashed")], resources) is None


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ("srun: error: Unable to create step for job 7: More processors requested than permitted\n", "wrong"),
        ("srun: unrecognized option '--nonsense=3'\n", "wrong"),
        ("srun: error: Couldn't find the specified plugin name for mpi/pmixx looking at all files\n", "wrong"),
        ("srun: error: Node failure on n2\n", "lost"),
        ("srun: error: Unable to contact slurm controller (connect failure)\n", "lost"),
    ],
)
def test_what_srun_says_is_the_runs_error_and_a_refusal_for_good_ends_it(said: str, result: str) -> None:
    left = Left(2, 1, {}, 5.0, finished=False, cancelled=False, srun=said)
    assert outcome(left, Resources()) == result
    told = said.removeprefix("srun: ").removeprefix("error: ").strip()
    assert told in str(first_error(left))


def test_a_rank_with_other_code_than_the_runs_copy_is_refused(tmp_path: Path) -> None:
    folder = a_run(tmp_path, "a", code=str(tmp_path / "code-1"))
    with pytest.raises(UserError, match=r"expected the run's copy in .*code-1"):
        refuse_other_code(folder)
    refuse_other_code(a_run(tmp_path, "b", code=str(Path(slurm.__file__).parents[2])))


def test_states_settle_before_they_alarm(tmp_path: Path) -> None:
    folder, running = Folder(tmp_path), Start(1, "7", 0, 0.0)
    now = time.time()
    for job, state in (
        (slurm.Job("7", "CANCELLED", ended=now - 2), "stopping"),
        (slurm.Job("7", "CANCELLED", ended=now - 99), "disagree"),
        (slurm.Job("7", "PENDING", submitted=now - 2, restarts=1), "waiting"),
        (slurm.Job("7", "SUSPENDED"), "suspended"),
    ):
        assert judge(folder, job, running, 3.0, "training", None)[0] == state
    assert judge(folder, slurm.Job("7", "SUSPENDED"), running, 99.0, "training", None)[0] == "suspended"


def test_a_table_of_some_states_in_some_order(
    cluster: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "runs"
    for name, score in (("low", 10.0), ("high", 20.0)):
        a_run(home, name).result.write_text(json.dumps({"best": {"eval": {"mAP": score}}}))
    a_run(home, "new")
    cluster("")
    assert main(["status", str(home), "--state", "finished", "--sort", "mAP", "--columns", "run,mAP"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [["run", "mAP"], ["high", "20.00"], ["low", "10.00"]]
    assert main(["status", str(home), "--sort", "mPA"]) == 2
    assert "--sort: found 'mPA'; did you mean 'mAP'" in capsys.readouterr().err


def test_long_names_are_cut_in_the_middle() -> None:
    assert shortened("optim.lr=0.001,model.head.name=csra/seed5", 17) == "optim.lr…ra/seed5"
    assert shortened("short", 17) == "short"


def test_a_plain_training_is_seen_while_it_runs_and_when_it_is_gone(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(epochs=1, precision__device="cpu")
    seen: list[str] = []
    note = heartbeat.note

    def look(**values: object) -> None:
        note(**values)
        if values.get("phase") == "evaluating":
            seen.append(rows([tmp_path / "run"], tmp_path)[0].state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartbeat, "note", look)
        assert train(config, tmp_path / "run") == 0
    assert seen
    assert set(seen) <= {"running", "starting"}
    folder = Folder(tmp_path / "run")
    assert rows([folder.run], tmp_path)[0].state == "finished"
    folder.result.unlink()
    write_json(folder.plain_heartbeat, {"token": "", "time": time.time() - 60, "phase": "training", "last_step": 3})
    assert rows([folder.run], tmp_path)[0].state == "stopped"
