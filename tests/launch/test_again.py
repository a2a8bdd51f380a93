"""`resume` and `sweep` again: SLURM is asked as often for many runs as for one, and crashes are counted anew."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.cluster import slurm
from launch.cluster.active import Seen
from launch.cluster.resources import Resources
from launch.control import resume
from launch.ledger import Folder, Token, begin, end, read_json, write_json
from launch.submit import hand_in, prepare_folder
from launch.watch.status import find_runs
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.errors import UserError

MakeConfig = Callable[..., Config]
CPU = Resources(gpus_per_node=0)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM that numbers jobs from 101 on, and writes down each question to squeue."""
    folder = tmp_path / "bin"
    folder.mkdir()
    said = "echo '%s|PENDING|None|0|2026-11-02T03:04:05|N/A|ada|%s'"
    queue = "\n".join(said % (number, f"masksup-r{number - 101}") for number in range(101, 110))
    numbers = f"n=$(cat {folder}/n 2> /dev/null || echo 100); n=$((n + 1)); echo $n > {folder}/n"
    says = {
        "squeue": f"echo asked >> {tmp_path}/asked\n{queue}", "sinfo": "echo gpu", "srun": "exit 1",
        "sbatch": f'case "$*" in *test-only*) exit 0;; esac; {numbers}; echo "Submitted batch job $n"',
        "scontrol": "echo ClusterName = big",
    }  # fmt: skip
    for name, text in says.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    slurm.cluster_name.cache_clear()
    return tmp_path / "asked"


def stopped(config: Config, run: Path) -> Folder:
    folder = Folder(run)
    prepare_folder(folder, config, CPU, "slurm", run, folder.path)
    write_json(folder.job, read_json(folder.job) | {"job": "7"})
    return folder


def test_resume_asks_for_many_runs_as_often_as_for_one(
    asked: Path, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(epochs=1)
    questions = []
    for home, names in (("one", ["r0"]), ("many", ["r1", "r2", "r3"])):
        asked.unlink(missing_ok=True)
        folders = [stopped(config, tmp_path / home / name) for name in names]
        assert resume([tmp_path / home], {}) == 0
        questions.append(asked.read_text().count("asked"))
    assert questions == [2, 2]  # what runs now; and what SLURM knows the new jobs by
    assert "job 104" in capsys.readouterr().out
    known = [read_json(folder.job) for folder in folders]
    assert [row["job"] for row in known] == ["102", "103", "104"]
    assert [(row["identity"]["user"], row["identity"]["cluster_name"]) for row in known] == [("ada", "big")] * 3
    assert [row["identity"]["name"] for row in known] == ["masksup-r1", "masksup-r2", "masksup-r3"]
    assert all("submitted" in row["identity"] for row in known)


def test_what_was_seen_before_somebody_else_submitted_does_not_count(
    asked: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config(epochs=1)
    folder = stopped(config, tmp_path / "runs" / "a")
    with pytest.raises(UserError, match="job 7 already works on this run"):
        hand_in([(folder.run, config)], CPU, "slurm", "x", folder.path, {folder: Seen("6")})
    assert not asked.exists()


def test_a_sweep_again_says_that_crashes_count_anew(
    asked: Path, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(to_yaml(tiny_config(epochs=1)))
    (tmp_path / "s.yaml").write_text("base: base.yaml\ngrid: {optim.lr: [0.1, 0.2, 0.3]}\n")
    words = ["sweep", str(tmp_path / "s.yaml"), "--sweep-dir", str(tmp_path / "home"), "--gpus-per-node", "0"]
    assert main(words) == 0
    assert "counted anew" not in capsys.readouterr().out
    for run, crashes in zip(find_runs(tmp_path / "home"), (3, 0, 1), strict=True):
        folder = Folder(run)
        for restart in range(crashes):
            end(folder, begin(folder, Token(read_json(folder.job)["job"], restart), ["n1"], 0), "crashed")
    assert main(words) == 0
    assert "forgiven    4 crashes of 2 settings, counted anew" in capsys.readouterr().out
