"""Disks that refuse, folders that move, files of other people: what is said is what happened, and nothing is lost."""

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unprivileged import without_privileges

import masksup.runtime.checkpoint as checkpoint
from masksup.base.log import start_logging
from masksup.config.schema import Config
from masksup.errors import JobError, UserError
from masksup.runtime import fence
from masksup.runtime.checkpoint import list_checkpoints, newest_valid, pointed, read_checkpoint, write_checkpoint
from masksup.runtime.run_folder import open_run
from masksup.runtime.saver import Saver
from masksup.saved.open import open_trained
from masksup.training.train import train

MakeConfig = Callable[..., Config]
FULL = OSError(errno.ENOSPC, "No space left on device")


def a_state(value: float = 1.0) -> checkpoint.State:
    return checkpoint.snapshot({"model/a": torch.full((3, 5), value)}, {"at": {}})


def refusing(patch: pytest.MonkeyPatch, refused: Callable[[str], bool], error: OSError = FULL) -> None:
    """A disk that refuses the checkpoints of which `refused` is true, by name."""
    real = checkpoint.write_checkpoint

    def write(folder: Path, name: str, state: Any) -> Path:
        if refused(name):
            raise error
        return real(folder, name, state)

    patch.setattr("masksup.runtime.saver.write_checkpoint", write)


@settings(max_examples=40, deadline=None)
@given(saves=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_best_is_always_the_last_best_that_was_written(
    saves: list[tuple[bool, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """(is a new best, is refused) of each save in turn, saved as a run does."""
    folder = tmp_path_factory.mktemp("best")
    saver, best, expected = Saver(folder, start=1, keep=2), None, None
    refused: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        refusing(patch, refused.__contains__)
        for step, (is_best, is_refused) in enumerate(saves, 1):
            name = saver.name(step)
            refused |= {name} if is_refused else set()
            best = saver.settled(best)
            best = {"checkpoint": name, "mAP": float(step)} if is_best else best
            saver.save(a_state(), name, best)
            saver.wait()
            expected = best if is_best and not is_refused else expected
            assert saver.settled(best) == saver.best == expected
            assert pointed(folder, "best") == (expected and expected["checkpoint"])
            assert expected is None or (folder / "best" / "state.json").is_file()


def test_a_best_that_could_not_be_saved_is_none(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third epoch is the best and the disk is full: what is second best stays, and stays named."""
    import masksup.training.score_run as scoring

    scores, real = iter([10.0, 20.0, 90.0, 15.0, 16.0, 16.0, 20.0]), scoring.evaluate
    monkeypatch.setattr(scoring, "evaluate", lambda *a, **k: {**real(*a, **k), "mAP": next(scores)})
    config = tiny_config(epochs=5, checkpoint={"every_steps": 1})
    names = [f"step-{step:09d}-a01" for step in (4, 7, 10, 13, 16)]  # of 50 samples in steps of 16
    refusing(monkeypatch, lambda name: name == names[2])
    assert train(config, tmp_path) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["best"]["checkpoint"], result["best"]["mAP"]) == (names[1], 20.0)
    assert pointed(tmp_path / "checkpoints", "best") == names[1]
    assert open_trained(tmp_path).step == 7
    newest = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[0])
    assert newest.meta["at"]["best"]["checkpoint"] == names[1]


def test_no_command_takes_another_checkpoint_than_the_best(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(tiny_config(epochs=1, checkpoint={"every_steps": 1}), run) == 0
    folder = run / "checkpoints"
    third, second, *_ = (path.name for path in list_checkpoints(folder))
    good = folder / pointed(folder, "best")
    shutil.copytree(good, tmp_path / "kept")
    (folder / "best").unlink()
    assert open_trained(run).checkpoint == f"run/{good.name}", "a copy that lost its links"
    (folder / "best").symlink_to(good.name)
    for damage in (lambda: (good / "state.safetensors").write_bytes(b"junk"), lambda: shutil.rmtree(good)):
        damage()
        other = second if good.name == third else third
        with pytest.raises(UserError, match=rf"{good.name}.*--checkpoint: .*{other}"):
            open_trained(run)
    assert open_trained(folder / other).checkpoint == f"run/{other}"


def test_a_run_whose_best_is_lost_says_so_and_is_finished(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import masksup.training.score_run as scoring

    scores, real = iter([90.0, *[10.0] * 9]), scoring.evaluate
    monkeypatch.setattr(scoring, "evaluate", lambda *a, **k: {**real(*a, **k), "mAP": next(scores)})
    config = tiny_config(epochs=3)
    take, best = scoring._take_checkpoint, []

    def damaged(run: Any, name: str) -> Any:
        best.append(name)
        (run.folder.checkpoints / name / "state.json").write_text("{}")
        return take(run, name)

    monkeypatch.setattr(scoring, "_take_checkpoint", damaged)
    assert train(config, tmp_path) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert "best" not in result
    assert result["best_lost"]["checkpoint"] == best[0]
    assert "ALARM: the best checkpoint is lost" in capsys.readouterr().out


def test_a_slow_disk_writes_the_best_as_soon_as_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    free, real = threading.Event(), checkpoint.write_checkpoint

    def slow(*given: Any) -> Path:
        free.wait()
        return real(*given)

    monkeypatch.setattr("masksup.runtime.saver.write_checkpoint", slow)
    saver = Saver(tmp_path, start=1, keep=2)
    for step in (1, 2):
        saver.save(a_state(step), saver.name(step), {"checkpoint": saver.name(step)} if step == 2 else None)
    assert not saver.wait(0.05)
    assert str(saver.behind()).startswith(saver.name(1))
    free.set()
    assert saver.wait()
    assert pointed(tmp_path, "best") == pointed(tmp_path, "latest") == saver.name(2)


# --- Whose folder it is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["removed", "renamed", "replaced"])
def test_a_run_folder_that_goes_away_ends_the_run(
    what: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import masksup.engine.step as module

    run, real, steps = tmp_path / "run", module.Stepper.step, []

    def step(*given: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            while what == "removed" and run.exists():  # threads of the run write there and remove, too
                shutil.rmtree(run, ignore_errors=True)
            if what != "removed":
                run.rename(tmp_path / "elsewhere")
            if what == "replaced":
                (run / "checkpoints").mkdir(parents=True)
        return real(*given)

    monkeypatch.setattr(module.Stepper, "step", step)
    with pytest.raises(UserError, match="was removed or renamed while this run was training in it"):
        train(tiny_config(epochs=3, checkpoint={"every_steps": 1}), run)
    assert not (run / "result.json").exists()
    assert not list_checkpoints(run / "checkpoints")


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(tiny_config: MakeConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "step-000000001-a01", a_state())
    tmp_path.chmod(0o300)
    try:
        with pytest.raises(UserError, match="cannot be looked into for checkpoints: Permission denied"):
            without_privileges(tmp_path, lambda: list_checkpoints(tmp_path))
    finally:
        tmp_path.chmod(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "not-mounted")
    with pytest.raises(UserError, match=r"found a link to .*not-mounted, which is not there"):
        list_checkpoints(tmp_path / "link")
    assert list_checkpoints(tmp_path / "nothing") == []


def test_a_checkpoint_is_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = write_checkpoint(tmp_path, "step-000000001-a01", a_state())
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o640}
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_what_may_not_be_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        newest = write_checkpoint(tmp_path, f"step-{step:09d}-a01", a_state())
    (newest / "state.safetensors").chmod(0)
    with pytest.raises(UserError, match=r"state\.safetensors: you may not read this file") as told:
        without_privileges(tmp_path, lambda: newest_valid(tmp_path))
    assert "damaged" not in str(told.value)

    def broken(_: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint, "file_sha256", broken)
    with pytest.raises(JobError, match="could not be read: Input/output error"):
        newest_valid(tmp_path)


# --- Locks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_who_starts_last_has_the_folder(
    number: int, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(fence, "_held", None)
    config, run = tiny_config(), tmp_path / "run"
    start_logging()
    first = open_run(run, config)
    assert "run: its file system has no locks" in capsys.readouterr().out.replace("\n", "")
    saver = Saver(first.checkpoints, first.start, 2, first.refuse_replaced)
    saver.save(a_state(), saver.name(1), None)
    saver.wait()
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(fence, "_held", None)  # as in a process of its own
        open_run(run, config)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    child = os.fork()
    if child == 0:  # the first process, at its next save
        saver.save(a_state(), saver.name(2), None)
        saver.wait()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == fence.SUPERSEDED
    assert [path.name for path in list_checkpoints(first.checkpoints)] == [saver.name(1)]


@pytest.mark.parametrize("damage", [b"", b'{"time": 1', b"\xff\xfe\n\n", b'{"time": 1}\n'])
def test_no_two_starts_have_one_number(damage: bytes, tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Whatever became of the file that counts them, no checkpoint of another start is taken for one of this."""
    config = tiny_config()
    for number in (1, 2, 3):
        opened = open_run(tmp_path, config)
        assert opened.start == number
        opened.lock.close()
        opened.checkpoints.mkdir(exist_ok=True)
        write_checkpoint(opened.checkpoints, f"step-000000001-a{number:02d}", a_state())
    (tmp_path / "starts.jsonl").write_bytes(damage)
    opened = open_run(tmp_path, config)
    assert opened.start == 4
    last = (tmp_path / "starts.jsonl").read_bytes().splitlines()[-1]
    assert json.loads(last)["start"] == 4


# --- Full disks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "help_"), [(errno.ENOSPC, "make room"), (errno.EACCES, "permission to write"), (errno.EIO, "see to the")]
)
def test_what_helps_is_what_is_wrong(
    number: int, help_: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, lambda _: True, OSError(number, os.strerror(number)))
    with pytest.raises(UserError, match=f"could not be saved: .*{os.strerror(number)}; .*{help_}"):
        train(tiny_config(epochs=1, data__eval=None), tmp_path)


def test_checkpoints_that_may_not_be_written_are_refused_at_the_start(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".lock").touch()
    (run / "checkpoints").chmod(0o500)
    with pytest.raises(UserError, match="checkpoints: cannot be written to: Permission denied"):
        without_privileges(tmp_path, lambda: open_run(run, tiny_config()))


def test_a_disk_that_refuses_says_why_through_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensors: Any, path: Path) -> None:
        path.parent.chmod(0o500)
        real(tensors, path)

    real = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(PermissionError) as told:
        without_privileges(tmp_path, lambda: write_checkpoint(tmp_path, "step-000000001-a01", a_state()))
    assert told.value.errno == errno.EACCES
