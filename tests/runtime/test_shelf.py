"""Snapshots in memory: whole or not there, and together the state."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masksup.runtime.checkpoint import State
from masksup.runtime.shelf import Shelf, part_of, taken


def tensors(seed: int, count: int = 5) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {f"model/{at}": torch.randn(3 + at, 4, generator=draw) for at in range(count)}


def put(shelves: list[Shelf], step: int) -> dict[str, torch.Tensor]:
    """What all ranks of a node keep of a step."""
    whole = tensors(step)
    for at, shelf in enumerate(shelves):
        shelf.put(step, State(part_of(whole, at, len(shelves)), {"step": step, "kept_tensors": len(whole)}))
    return whole


def take(shelves: list[Shelf], step: int) -> State | None:
    return taken([shelf.paths(os.getpid()) for shelf in shelves], step)


def same(state: State | None, whole: dict[str, torch.Tensor]) -> bool:
    return state is not None and state.tensors.keys() == whole.keys() and all(
        torch.equal(value, state.tensors[name]) for name, value in whole.items()
    )  # fmt: skip


def test_the_two_newest_snapshots_are_there_and_together_they_are_the_state() -> None:
    shelves = [Shelf.make() for _ in range(3)]
    assert all(shelf.steps() == [] for shelf in shelves)
    kept = {step: put(shelves, step) for step in (4, 7, 9)}
    assert all(sorted(shelf.steps()) == [7, 9] for shelf in shelves)
    assert take(shelves, 4) is None
    for step in (7, 9):
        found = take(shelves, step)
        assert same(found, kept[step])
        assert found is not None
        assert found.meta["step"] == step


def test_a_snapshot_that_is_not_whole_is_none(subtests: pytest.Subtests) -> None:
    shelves = [Shelf.make() for _ in range(2)]
    put(shelves, 3)
    assert take(shelves[:1], 3) is None, "the part of the other rank is missing"
    length = os.fstat(shelves[1].files[0]).st_size
    for at in range(length):
        with subtests.test(at=at):
            (byte,) = os.pread(shelves[1].files[0], 1, at)
            os.pwrite(shelves[1].files[0], bytes([byte ^ 1]), at)
            assert take(shelves, 3) is None
            os.pwrite(shelves[1].files[0], bytes([byte]), at)
    assert same(take(shelves, 3), tensors(3))
    os.ftruncate(shelves[1].files[0], length - 1)
    assert take(shelves, 3) is None


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 9))
def test_parts_are_all_of_it_and_about_equal(lengths: list[int], parts: int) -> None:
    whole = {f"{at:02d}": torch.zeros(length) for at, length in enumerate(lengths)}
    found = [part_of(whole, number, parts) for number in range(parts)]
    assert sorted(name for part in found for name in part) == sorted(whole)
    most = max(sum(value.nbytes for value in part.values()) for part in found)
    assert most <= sum(lengths) * 4 / parts + 2 * max(lengths) * 4
