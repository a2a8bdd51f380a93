"""Snapshots in memory of a training on one process, which has what a keeper would give it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import assert_same_run

from masksup.config.schema import Config
from masksup.runtime.shelf import SHELF, TAKEN, Shelf, taken
from masksup.training.train import train


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf.make()
    monkeypatch.setenv(SHELF, ",".join(map(str, made.files)))
    monkeypatch.delenv(TAKEN, raising=False)
    return made


def test_a_run_takes_them_and_ends_alike(shelf: Shelf, tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(checkpoint__snapshot_seconds=1e-9)
    assert train(config, tmp_path / "with") == 0
    newest = max(shelf.steps())
    state = taken([shelf.paths(os.getpid())], newest)
    assert state is not None
    assert state.meta["step"] == newest > 1
    assert train(tiny_config(), tmp_path / "without") == 0
    assert_same_run(tmp_path / "with", tmp_path / "without")


def test_without_the_memory_for_them_one_line_says_so_and_the_run_goes_on(
    shelf: Shelf, tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("masksup.training.snapshots.free_bytes", lambda: 1000.0)
    assert train(tiny_config(checkpoint__snapshot_seconds=1e-9), tmp_path / "run") == 0
    assert shelf.steps() == []
    said = capsys.readouterr()
    told = " ".join((said.out + said.err).split())
    assert told.count("no snapshots are taken: they need ") == 1, told


def test_where_each_rank_has_a_state_of_its_own_there_are_none(
    shelf: Shelf, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    assert train(tiny_config(checkpoint__snapshot_seconds=1e-9, parallel__sum="ring"), tmp_path / "run") == 0
    assert shelf.steps() == []
