"""`batch.micro: auto`: found once by what a step takes, and then a setting like any other."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from masksup.base.place import ALONE, most_ranks
from masksup.config.auto import resolved, with_micro
from masksup.config.schema import Config
from masksup.data.split import open_source
from masksup.engine.micro import _peaks, candidates, fitting, with_common_micro
from masksup.errors import UserError
from masksup.runtime.checkpoint import newest_valid
from masksup.runtime.ranks import Group
from masksup.training.train import train

MakeConfig = Callable[..., Config]


@given(whole=st.integers(1, 512), ranks=st.integers(1, 64), fixed=st.integers(0, 50), each=st.integers(1, 50),
       room=st.integers(1, 9000))  # fmt: skip
def test_the_largest_that_fits_is_found_by_small_ones(whole: int, ranks: int, fixed: int, each: int, room: int) -> None:
    sizes = [size for size in range(1, max(whole // ranks, 1) + 1) if whole % size == 0]
    asked: list[int] = []

    def peak(size: int) -> float:
        asked.append(size)
        return fixed + each * size if fixed + each * size <= room else float("inf")

    assert fitting(sizes, peak, lambda _: room, fixed) == [size for size in sizes if fixed + each * size <= room]
    assert all(size <= 8 for size in asked)
    assert sum(fixed + each * size > room for size in asked) <= 1, "the first that does not fit ends the search"


@pytest.mark.parametrize(
    ("ranks", "zero", "expected"),
    [(1, 0, [1, 2, 3, 4, 6, 8, 12, 24]), (5, 0, [1, 2, 3, 4]), (30, 0, [1]), (4, 2, [1, 2, 3, 6])],
)
def test_each_rank_gets_a_share(tiny_config: MakeConfig, ranks: int, zero: int, expected: list[int]) -> None:
    config = tiny_config(batch={"global": 24, "micro": "auto"})
    if zero:
        parallel = config.parallel.model_copy(update={"engine": "deepspeed", "zero_stage": zero})
        config = config.model_copy(update={"parallel": parallel})
    assert candidates(config, ranks) == expected


def test_the_launcher_says_how_many_ranks_there_may_be() -> None:
    assert most_ranks(ALONE, {"MASKSUP_MOST_RANKS": "8"}) == 8
    assert most_ranks(ALONE, {}) == 1


def test_what_a_step_takes_grows_with_its_images(tiny_config: MakeConfig) -> None:
    """By at least their pixels as floats, which the first layer keeps for its gradient."""
    config = tiny_config(model__size=64, model__head={"name": "linear"})
    peak = _peaks(config, open_source(config.data, config.seed), torch.device("cpu"))
    few, many = peak(1), peak(65)
    assert many - few > 64 * 3 * 64 * 64 * 4
    assert peak(1) < few + 0.5 * (many - few), "earlier steps do not count"


def recorded(run: Path) -> object:
    return yaml.safe_load((run / "config.yaml").read_text())["batch"]["micro"]


def test_it_is_found_once_and_kept(tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume with other memory goes on with it, and the run is that of the same number by hand, bit for bit."""
    linear: Callable[..., object] = lambda *_: lambda size: 5e7 * size  # noqa: E731
    monkeypatch.setattr("masksup.engine.micro._peaks", linear)
    monkeypatch.setattr("masksup.engine.micro.free_bytes", lambda *_: 1e9)
    auto, by_hand = tiny_config(epochs=1, batch__micro="auto"), tiny_config(epochs=1, batch__micro=8)
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM")
        assert train(auto, tmp_path / "auto") == 75
    assert recorded(tmp_path / "auto") == 8
    monkeypatch.setattr("masksup.engine.micro.free_bytes", lambda *_: 1e6)
    assert train(auto, tmp_path / "auto") == train(by_hand, tmp_path / "by_hand") == 0
    assert recorded(tmp_path / "auto") == 8
    states = []
    for name in ("auto", "by_hand"):
        state, _ = newest_valid(tmp_path / name / "checkpoints")
        assert state is not None
        states.append(state.part("model"))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_no_room_is_one_line_and_no_folder(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masksup.engine.micro.free_bytes", lambda *_: 1000.0)
    with pytest.raises(UserError, match=r"batch\.micro: auto found no room for 1 image .* model\.grad_checkpointing"):
        train(tiny_config(batch__micro="auto"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_rank_with_the_least_room_decides(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masksup.engine.micro.largest_micro", lambda *_: 8)
    group = cast(Group, SimpleNamespace(place=ALONE, together=nullcontext, all=lambda own: [own, 2, 4]))
    assert with_common_micro(tiny_config(batch__micro="auto"), group).batch.micro == 2


@pytest.mark.parametrize(("found", "norm"), [(32, "frozen"), (64, "batch")])
def test_batch_norm_follows_the_micro_batch_that_was_found(tiny_config: MakeConfig, found: int, norm: str) -> None:
    config = tiny_config(batch={"global": 128, "micro": "auto"}, model__weights="some.pth")
    assert resolved(with_micro(config, found), has_batch_norm=True).model.batchnorm == norm
