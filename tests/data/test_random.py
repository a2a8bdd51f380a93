"""Counter-based draws and the keyed permutation."""

import pickle
import random
import tracemalloc
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masksup.base.random import draws, permuted, uniform


def test_every_small_permutation_is_a_bijection() -> None:
    for n in range(1, 201):
        for seed, epoch in ((0, 0), (0, 1), (7, 3)):
            assert sorted(permuted(np.arange(n), epoch, n, seed)) == list(range(n)), (n, seed, epoch)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_all_orders_of_few_samples_are_equally_frequent(n: int) -> None:
    orders, expected = factorial(n), 100
    epochs = np.arange(orders * expected)[:, None]
    order = permuted(np.tile(np.arange(n), (len(epochs), 1)), epochs, n, seed=3)
    code = (order * n ** np.arange(n)).sum(axis=1)
    counts = np.unique(code, return_counts=True)[1]
    assert len(counts) == orders
    freedom = orders - 1
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    # 4 standard deviations; the test is deterministic, so this bounds bias, not luck.
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_epochs_and_seeds_give_unrelated_orders() -> None:
    n = 4096
    first = permuted(np.arange(n), 0, n, 0)
    for epoch, seed in ((1, 0), (0, 1), (2, 5)):
        other = permuted(np.arange(n), epoch, n, seed)
        assert (first == other).sum() < 12  # expectation 1
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.08


@given(st.integers(1, 2**40), st.integers(0, 2**20), st.integers(0, 2**63), st.data())
@settings(max_examples=60, deadline=None)
def test_huge_n_stays_in_range_without_collisions(n: int, epoch: int, seed: int, data: st.DataObject) -> None:
    where = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=50))))
    out = permuted(where, epoch, n, seed)
    assert out.dtype == np.int64
    assert out.min() >= 0
    assert out.max() < n
    assert len(set(out.tolist())) == len(where)
    # Element by element and with epochs as an array: the same.
    assert permuted(where[0], epoch, n, seed) == out[0]
    assert (permuted(where, np.full(len(where), epoch), n, seed) == out).all()


def test_a_billion_samples_need_no_array_of_that_size() -> None:
    tracemalloc.start()
    permuted(np.arange(5 * 10**8, 5 * 10**8 + 256), 3, 10**9, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_draws_depend_on_seed_position_and_stream_and_on_nothing_else() -> None:
    def numbers(seed: int, position: int, stream: str) -> bytes:
        return draws(seed, position, stream).random(4).tobytes()

    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    reference = numbers(1, 2, "augment")
    np.random.random(3)
    assert numbers(1, 2, "augment") == reference
    np.random.set_state(numpy_state)
    assert len({reference, numbers(2, 2, "augment"), numbers(1, 3, "augment"), numbers(1, 2, "mask")}) == 4
    assert random.getstate() == python_state
    assert pickle.dumps(np.random.get_state()) == pickle.dumps(numpy_state)
    assert (torch.get_rng_state() == torch_state).all()


def test_uniform_is_uniform_and_keyed() -> None:
    values = uniform(np.arange(100_000), 0, "balance")
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 4 * np.sqrt(198)
    assert not np.allclose(values[:10], uniform(np.arange(10), 1, "balance"))
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02
