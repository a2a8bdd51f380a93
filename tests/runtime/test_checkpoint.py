"""Checkpoints exist or do not (R2), and damage is found (R3)."""

import hashlib
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import masksup.runtime.checkpoint as checkpoint
from masksup.errors import UserError
from masksup.runtime.checkpoint import (
    State,
    list_checkpoints,
    newest_valid,
    point,
    prune,
    read_checkpoint,
    snapshot,
    write_checkpoint,
)  # fmt: skip
from masksup.runtime.saver import Saver

MUTATIONS = int(os.environ.get("MASKSUP_MUTATIONS", "200"))


def a_state(value: float = 1.0) -> State:
    tensors = {"model/a": torch.full((3, 5), value), "optim/step/a": torch.tensor(7.0), "ema/a": torch.ones(2).bool()}
    return snapshot(tensors, {"step": 3, "text": "ä"})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, "step-000000003-a01", a_state())
    state = read_checkpoint(path)
    assert state.meta == {"step": 3, "text": "ä"}
    assert {name: value.tolist() for name, value in state.tensors.items()} == {
        name: value.tolist() for name, value in a_state().tensors.items()
    }
    assert state.part("optim/step").keys() == {"a"}
    assert os.system(f"cd {path} && sha256sum --check --quiet --strict SHA256SUMS") == 0


DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


@settings(max_examples=50, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from([(), (0,), (1,), (3, 5), (2, 0, 4)])), max_size=9)
)
def test_the_hash_is_that_of_the_file_for_tensors_of_any_kind(
    kinds: list[tuple[torch.dtype, tuple[int, ...]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is made of the tensors in memory."""
    tensors = {f"model/{n}é": torch.randint(0, 2, shape).to(dtype) for n, (dtype, shape) in enumerate(kinds)}
    path = write_checkpoint(tmp_path_factory.mktemp("any"), "step-000000003-a01", snapshot(tensors, {}))
    found = hashlib.sha256((path / checkpoint.TENSORS).read_bytes()).hexdigest()
    assert (path / checkpoint.SUMS).read_text().startswith(f"{found}  {checkpoint.TENSORS}\n")


def test_a_disk_that_keeps_other_bytes_than_it_was_given_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back, they would be hashed as if they were right."""
    save = checkpoint.save_file

    def keeps_others(tensors: dict[str, torch.Tensor], file: Path) -> None:
        save(tensors, file)
        file.write_bytes(file.read_bytes()[:-1] + b"!")

    write_checkpoint(tmp_path, "step-000000001-a01", a_state(1))
    monkeypatch.setattr(checkpoint, "save_file", keeps_others)
    damaged = write_checkpoint(tmp_path, "step-000000002-a01", a_state(2))
    with pytest.raises(UserError, match=r"step-000000002-a01.*state\.safetensors"):
        read_checkpoint(damaged)
    state, _ = newest_valid(tmp_path)
    assert state is not None
    assert state.part("model")["a"][0, 0] == 1


def test_snapshot_is_not_changed_by_later_steps() -> None:
    weights = torch.zeros(4)
    taken = snapshot({"model/w": weights}, {})
    weights += 1
    assert taken.tensors["model/w"].sum() == 0


def test_a_kill_at_any_point_of_a_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every function that touches the disk is a point; dying before or after it must leave a readable state."""
    write_checkpoint(tmp_path, "step-000000001-a01", a_state(1))

    class Killed(BaseException):
        pass

    points = [
        ("save_file", checkpoint),
        ("sync", checkpoint),
        ("file_sha256", checkpoint),
        ("rename", Path),
        ("write_text", Path),
    ]
    survived = 0
    for name, owner in points:
        for nth in range(1, 6):
            for after in (False, True):
                count = 0
                real = getattr(owner, name)

                def dying(*args: object, **kwargs: object) -> object:
                    nonlocal count
                    count += 1
                    if count == nth and not after:
                        raise Killed
                    result = real(*args, **kwargs)
                    if count == nth:
                        raise Killed
                    return result

                with monkeypatch.context() as patch:
                    patch.setattr(owner, name, dying)
                    patch.setattr(shutil, "rmtree", lambda *a, **k: None)  # a killed process cleans nothing up
                    try:
                        write_checkpoint(tmp_path, "step-000000002-a01", a_state(2))
                        survived += 1
                    except Killed:
                        pass
                state, problems = newest_valid(tmp_path)
                assert problems == {}
                assert state is not None
                assert state.tensors["model/a"][0, 0] in (1.0, 2.0)
                for leftover in tmp_path.glob("*step-000000002*"):
                    shutil.rmtree(leftover)
    assert 0 < survived < 50  # some of the points do not exist, most do


@pytest.mark.timeout(1800)  # of the 20,000 at night
def test_any_flip_truncation_or_loss_is_found(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "step-000000001-a01", a_state(1))
    good = write_checkpoint(tmp_path / "aside", "step-000000002-a01", a_state(2))
    draw = random.Random(0)
    target = tmp_path / good.name
    for _ in range(MUTATIONS):
        shutil.copytree(good, target)
        file = target / draw.choice(["state.safetensors", "state.json", "SHA256SUMS"])
        content = bytearray(file.read_bytes())
        kind = draw.choice(["flip", "truncate", "delete", "extend"])
        if kind == "flip":
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif kind == "truncate":
            del content[draw.randrange(len(content)) :]
        elif kind == "extend":
            content += bytes([draw.randrange(256)])
        file.write_bytes(content)
        if kind == "delete":
            file.unlink()
        state, problems = newest_valid(tmp_path)
        assert state is not None
        assert state.tensors["model/a"][0, 0] == 1, (kind, file.name)
        assert len(problems) == 1
        assert list(problems) == [target]
        assert "\n" not in problems[target]
        assert good.name in problems[target]
        shutil.rmtree(target)


def test_newest_is_by_step_then_start(tmp_path: Path) -> None:
    for name in ("step-000000010-a01", "step-000000009-a07", "step-000000010-a02", "step-1000000000-a01"):
        write_checkpoint(tmp_path, name, a_state())
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-1000000000-a01", "step-000000010-a02", "step-000000010-a01", "step-000000009-a07",
    ]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True), keep=st.integers(2, 4), data=st.data())
def test_pruning_keeps_the_newest_and_the_best(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("prune")
    for step in steps:
        (folder / f"step-{step:09d}-a01").mkdir()
    best = f"step-{data.draw(st.sampled_from(steps)):09d}-a01"
    point(folder, "best", best)
    prune(folder, keep)
    left = {path.name for path in folder.iterdir()}
    assert left == {f"step-{step:09d}-a01" for step in sorted(steps)[-keep:]} | {best, "best"}


def test_saver_points_latest_and_best_and_reports_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Saver(tmp_path, start=2, keep=2)
    for step in (1, 2, 3, 4):
        saver.save(a_state(step), saver.name(step), {"checkpoint": "step-000000001-a02"})
        saver.wait()
    assert (tmp_path / "latest").resolve().name == "step-000000004-a02"
    assert (tmp_path / "best").resolve().name == "step-000000001-a02"
    assert {path.name for path in list_checkpoints(tmp_path)} == {f"step-00000000{s}-a02" for s in (1, 3, 4)}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    saver.save(a_state(5), saver.name(5), None)
    saver.wait()
    problem = saver.take_problem()
    assert isinstance(problem, OSError)
    assert problem.errno == 28
    assert saver.take_problem() is None
    assert (tmp_path / "latest").resolve().name == "step-000000004-a02"


def test_a_disk_that_is_really_full_is_an_oserror(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=64k tmpfs {small}"):
        pytest.skip("needs to mount a small file system")
    try:
        large = snapshot({"model/w": torch.zeros(10**6)}, {})
        with pytest.raises(OSError, match="space"):
            write_checkpoint(small, "step-000000001-a01", large)
        assert list(small.iterdir()) == []
    finally:
        os.system(f"umount {small}")


def test_saving_in_the_background_writes_the_same_bytes(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "background", start=1, keep=2)
    saver.save(a_state(), saver.name(1), None)
    saver.wait()
    direct = write_checkpoint(tmp_path / "direct", saver.name(1), a_state())
    for file in direct.iterdir():
        assert file.read_bytes() == (tmp_path / "background" / saver.name(1) / file.name).read_bytes()


def test_a_pickle_in_a_checkpoint_is_never_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path}/executed",)

    path = write_checkpoint(tmp_path, "step-000000001-a01", a_state())
    (path / "state.safetensors").write_bytes(pickle.dumps(Evil()))

    sums = [
        f"{hashlib.sha256((path / f).read_bytes()).hexdigest()}  {f}\n" for f in ("state.safetensors", "state.json")
    ]
    (path / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(UserError, match="not a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_meta_survives_as_json(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, "step-000000001-a01", a_state())
    assert json.loads((path / "state.json").read_text()) == {"step": 3, "text": "ä"}
