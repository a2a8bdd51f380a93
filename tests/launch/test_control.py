"""logs, requeue, cancel and resume on real runs of this machine."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.cluster import local
from launch.cluster.resources import Resources
from launch.control import logs
from launch.ledger import Folder, Token, begin, read_json, starts, write_json
from launch.submit import prepare_folder
from launch.sweep_command import note, sort_out
from launch.sweeps.results import as_text, scored
from launch.sweeps.settings import settings
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index
from masksup.errors import UserError

MakeConfig = Callable[..., Config]
LOCAL = ["--cluster", "local", "--gpus-per-node", "0", "--cpus-per-rank", "1"]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def step(run: Path, start: int) -> int:
    history, beat = starts(Folder(run)), read_json(Folder(run).heartbeat)
    same = len(history) == start and beat.get("token") == f"{history[-1].job}.{history[-1].restart}"
    return int(beat.get("last_step", -1)) if same else -1


@pytest.mark.timeout(280)
def test_requeued_followed_cancelled_and_resumed(
    tiny_config: MakeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, home = tmp_path / "long.yaml", tmp_path / "runs"
    file.write_text(to_yaml(tiny_config(epochs=100000, precision__device="cpu")))
    run, never = home / "b", home / "a"
    begin(Folder(never), Token("local-0", 0), ["localhost"], 0)
    write_json(Folder(never).job, {"job": "local-0", "cluster": "local"})
    (never / "config.yaml").write_text("")
    assert main(["submit", str(file), "--run-dir", str(run), *LOCAL]) == 0
    until(lambda: step(run, 1) > 3)
    with (tmp_path / "followed").open("w") as said:
        follow = subprocess.Popen(
            [sys.executable, "-m", "launch", "logs", str(run), "--follow"], stdout=said, stderr=subprocess.STDOUT
        )
        capfd.readouterr()
        assert main(["requeue", str(home)]) == 0, "one that is not active does not keep the others from being asked"
        told = capfd.readouterr()
        assert f"{never}: not active" in told.err
        assert f"{run}: job" in told.out
        until(lambda: step(run, 2) > 3)
        assert starts(Folder(run))[0].outcome == "preempted"
        assert main(["resume", str(run), "--nodes", "x"]) == 0, "active, so that nothing is submitted"
        assert main(["cancel", "--now", str(run)]) == 0
        assert follow.wait(60) == 0, "nobody writes any more"
    assert not local.ranks(Folder(run))
    until(lambda: starts(Folder(run))[-1].outcome == "cancelled")
    text = (tmp_path / "followed").read_text()
    for number in (1, 2):
        first_line = (run / "logs" / f"start{number:03d}-rank0.log").read_text().splitlines()[0]
        assert first_line in text, "it goes on with the next start"

    assert main(["requeue", str(home)]) == 2
    capfd.readouterr()
    assert main(["resume", str(run), "--nodes", "x"]) == 2
    assert "command line: nodes: found 'x'" in capfd.readouterr().err
    assert main(["resume", str(run), "--time", "soon"]) == 2
    assert "time: found 'soon'" in capfd.readouterr().err
    with pytest.raises(UserError, match="found 2 runs there, expected one"):
        logs(home, 0, None, launcher=False, follow=False)


@pytest.mark.slow
def test_a_launcher_that_was_killed_leaves_ranks_that_can_be_told_to_leave(
    tiny_config: MakeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, run = tmp_path / "long.yaml", tmp_path / "run"
    file.write_text(to_yaml(tiny_config(epochs=100000, precision__device="cpu")))
    words = ["submit", str(file), "--run-dir", str(run), *LOCAL]
    assert main(words) == 0
    until(lambda: step(run, 1) > 3)
    subprocess.run(["kill", "-KILL", str(local.pid(read_json(Folder(run).job)["job"]))], check=True)
    capfd.readouterr()
    assert main(words) == 2
    assert "already works on this run" in capfd.readouterr().err
    assert main(["cancel", str(run)]) == 0
    assert "was asked to save and leave" in capfd.readouterr().out
    until(lambda: not local.ranks(Folder(run)))
    assert list((run / "checkpoints").glob("step-*")), "it saved"


@pytest.mark.slow
def test_a_start_whose_preflight_fails_is_told_and_comes_again(
    tiny_config: MakeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "train"
    write_index(index, prepare_shapes(tmp_path / "root", train=8, val=2, test=1, size=32, seed=1)[0])
    image = open_index(index).path(0)
    image.rename(tmp_path / "away")
    file, run = tmp_path / "short.yaml", tmp_path / "run"
    data = {"data__train": str(index), "data__eval": None, "batch": {"global": 4, "micro": 4}, "epochs": 1}
    file.write_text(to_yaml(tiny_config(precision__device="cpu", **data)))
    assert main(["submit", str(file), "--run-dir", str(run), "--preflight", *LOCAL]) == 0
    until(lambda: starts(Folder(run)) and starts(Folder(run))[0].outcome)
    first = starts(Folder(run))[0]
    assert first.outcome == "lost"
    assert str(image) in str(first.error)
    capfd.readouterr()
    assert main(["status", str(run)]) == 0
    assert str(image) in capfd.readouterr().out
    (tmp_path / "away").rename(image)
    until((run / "result.json").exists)
    until(lambda: starts(Folder(run))[-1].outcome == "done")
    assert "preflight: fit" in (run / "logs" / f"start{len(starts(Folder(run))):03d}-rank0.log").read_text()


def test_resume_takes_other_cpus_and_workers_and_refuses_what_is_the_run(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = tiny_config(precision__device="cpu", epochs=1)
    prepare_folder(Folder(run), config, Resources(gpus_per_node=0), "local", tmp_path, run / "launch")
    before = (run / "config.yaml").read_bytes()
    assert main(["resume", str(run), "--set", "optim.lr=0.5"]) == 2
    assert "another configuration (optim.lr: 0.003 -> 0.5)" in "".join(capsys.readouterr())
    assert (run / "config.yaml").read_bytes() == before
    assert main(["resume", str(run), "--set", "data.workers=1", "--cpus-per-rank", "2"]) == 0
    until((run / "result.json").exists)
    assert "workers: 1" in (run / "config.yaml").read_text()
    assert read_json(Folder(run).job)["resources"]["cpus_per_rank"] == 2


def test_logs_of_a_run_without_the_launcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "starts.jsonl").write_text("")
    (tmp_path / "logs" / "rank1.log").write_text("hello\n")
    assert main(["logs", str(tmp_path), "--rank", "1"]) == 0
    assert capsys.readouterr().out == "hello\n"


def test_a_finished_setting_is_not_taken_for_one_of_another_configuration(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """Neither an edited sweep nor an edited base puts new settings beside scores of old ones."""
    base, file, home = tmp_path / "base.yaml", tmp_path / "s.yaml", tmp_path / "home"
    base.write_text(to_yaml(tiny_config(epochs=1)))
    file.write_text("base: base.yaml\ngrid: {ema.decay: [0.0, 0.9]}\n")
    found = settings(file)
    for setting in found:
        folder = home / setting.folder
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(to_yaml(setting.config))
        (folder / "result.json").write_text('{"best": {"eval": {"mAP": 50.0}}}')
    note(home, file, found, [])
    assert [len(group) for group in sort_out(home, found)] == [0, 2, 0]
    file.write_text("base: base.yaml\ngrid: {ema.decay: [0.0, 0.9]}\nset: {optim.lr: 0.5}\n")
    with pytest.raises(UserError, match=r"another configuration \(optim\.lr: .* -> 0\.5\); use another"):
        sort_out(home, settings(file))
    file.write_text("base: base.yaml\ngrid: {ema.decay: [0.0, 0.9]}\nset: {parallel.bucket_mb: 5}\n")
    assert [len(group) for group in sort_out(home, settings(file))] == [0, 2, 0], (
        "how ranks share the work is no matter"
    )


def test_a_setting_that_was_stopped_early_says_so_in_the_table(tiny_config: MakeConfig, tmp_path: Path) -> None:
    base, file = tmp_path / "base.yaml", tmp_path / "s.yaml"
    base.write_text(to_yaml(tiny_config(epochs=1)))
    file.write_text("base: base.yaml\n")
    found = settings(file)
    note(tmp_path, file, found, [])
    folder = Folder(tmp_path / found[0].folder)
    folder.path.mkdir(parents=True)
    folder.stopped_early.write_text("stopped early: mAP 12.00 at epoch 4\n")
    assert "(1 without a result: stopped early: mAP 12.00 at epoch 4)" in as_text(tmp_path, scored(tmp_path))
