"""The order of a run: every sample once an epoch, the same from any step, balanced when asked."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masksup.data.sampler import LastBatch, Plan, class_balance
from masksup.errors import UserError


def plan(n: int, batch: int, micro: int = 1, epochs: float = 2, last: LastBatch = "continue", seed: int = 0) -> Plan:
    return Plan(samples=n, global_batch=batch, micro_batch=micro, epochs=epochs, last_batch=last, seed=seed)


sizes = st.tuples(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5), st.integers(1, 4))


@given(sizes, st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_continue_covers_every_epoch_exactly_once_with_full_steps(size: tuple[int, int, int, int], seed: int) -> None:
    n, micro, share, epochs = size
    p = plan(n, micro * share, micro, epochs, seed=seed)
    micro_batches = [m for step in range(p.total_steps) for m in p.micro_batches(step)]
    assert all(len(m) == micro for m in micro_batches)
    positions = np.concatenate(micro_batches)
    assert (positions == np.arange(len(positions))).all()
    samples = p.samples_at(positions)
    for epoch in range(epochs):
        assert sorted(samples[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert len(positions) - epochs * n < p.global_batch


@given(sizes)
@settings(max_examples=100, deadline=None)
def test_partial_covers_every_epoch_exactly_once_with_one_short_step(size: tuple[int, int, int, int]) -> None:
    n, micro, share, epochs = size
    p = plan(n, micro * share, micro, epochs, "partial")
    per_epoch = -(-n // p.global_batch)
    assert p.total_steps == per_epoch * epochs
    for epoch in range(epochs):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        lengths = [len(p.positions(s)) for s in steps]
        assert lengths[:-1] == [p.global_batch] * (per_epoch - 1)
        samples = np.concatenate([p.samples_at(m) for s in steps for m in p.micro_batches(s)])
        assert sorted(samples) == list(range(n))


def test_drop_leaves_out_the_rest_of_each_epoch() -> None:
    p = plan(10, 4, 2, 3, "drop")
    assert p.total_steps == 6
    for step in range(6):
        assert len(p.positions(step)) == 4
        assert (p.positions(step) // 10 == step // 2).all()
    assert len(set(p.samples_at(np.concatenate([p.positions(0), p.positions(1)])))) == 8


@given(sizes, st.sampled_from(["continue", "partial"]))
@settings(max_examples=100, deadline=None)
def test_epochs_end_where_their_last_sample_was_consumed(size: tuple[int, int, int, int], last: LastBatch) -> None:
    n, micro, share, epochs = size
    p = plan(n, micro * share, micro, epochs, last)
    seen = 0
    for step in range(1, p.total_steps + 1):
        before = seen // n
        seen = int(p.positions(step - 1)[-1]) + 1
        assert p.ends_epoch(step) == (seen // n if seen // n > before else None)
        assert p.epoch_of(step) == pytest.approx(seen / n) or last == "partial"
    assert p.ends_epoch(0) is None
    assert p.epoch_of(p.total_steps) >= epochs


@pytest.mark.parametrize("last", ["continue", "partial", "drop"])
def test_the_samples_before_a_step_are_those_of_the_steps_before_it(last: LastBatch) -> None:
    for n, batch in ((50, 12), (48, 12), (12, 12), (100, 7)):
        p = plan(n, batch, batch, last=last)
        sizes = [len(p.positions(step)) for step in range(20)]
        assert [p.samples_before(step) for step in range(20)] == [sum(sizes[:step]) for step in range(20)]


def test_every_epoch_and_seed_has_its_own_order() -> None:
    orders = [plan(50, 5, seed=seed).samples_at(np.arange(100)).reshape(2, 50).tolist() for seed in (0, 1)]
    assert len({tuple(order) for pair in orders for order in pair}) == 4


def test_fractional_epochs_round_up_to_a_full_step() -> None:
    assert plan(100, 10, epochs=0.1).total_steps == 1
    assert plan(100, 10, epochs=0.11).total_steps == 2
    assert plan(5011, 16, epochs=30).total_steps == -(-5011 * 30 // 16)


def test_a_billion_samples_cost_no_memory() -> None:
    p = plan(10**9, 4096, 4, epochs=90)
    tracemalloc.start()
    samples = p.samples_at(p.positions(p.total_steps // 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert len(np.unique(samples)) == 4096


def test_balanced_sampling_draws_in_proportion_to_the_weights() -> None:
    n = 500
    weights = np.random.default_rng(0).exponential(size=n)
    p = Plan(n, 50, 10, 400, "continue", 0, cumulative=np.cumsum(weights))
    counts = np.bincount(p.samples_at(np.arange(400 * n)), minlength=n)
    expected = 400 * n * weights / weights.sum()
    # Strata vary less than independent draws would, so 4.5 Poisson deviations is generous.
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected) + 1).all()
    # The strata bound every single epoch as well: within 2 of the expectation.
    one = np.bincount(p.samples_at(np.arange(n)), minlength=n)
    assert (np.abs(one - n * weights / weights.sum()) <= 2).all()


def test_class_balance_draws_classes_equally() -> None:
    labels = np.zeros((1000, 3), np.int8)
    labels[:800, 0] = 1
    labels[800:890, 1] = 1
    labels[890:900, 2] = 1
    labels[5, 1] = -1
    p = Plan(1000, 10, 10, 100, "continue", 0, cumulative=class_balance(labels))
    drawn = labels[p.samples_at(np.arange(100_000))]
    shares = [(drawn[:, c] == 1).mean() for c in range(3)] + [(drawn != 1).all(axis=1).mean()]
    assert shares == pytest.approx([0.25] * 4, abs=0.01)


def test_wrong_sizes_are_one_line_errors() -> None:
    with pytest.raises(UserError, match=r"batch.global: found 10, expected a multiple of batch.micro 4"):
        plan(100, 10, 4)
    with pytest.raises(UserError, match=r"data.last_batch: found 'drop' with 3 samples"):
        plan(3, 4, last="drop")
    with pytest.raises(UserError, match="found 0 samples"):
        plan(0, 4)


def balanced(n: int, batch: int, micro: int, seed: int = 0) -> Plan:
    weights = np.random.default_rng(0).exponential(size=n)
    return Plan(n, batch, micro, 1, "continue", seed, cumulative=np.cumsum(weights))


def dealt_to(p: Plan, step: int, rank: int, world: int, whole: list[np.ndarray]) -> list[int]:
    """The positions that a rank trains on in a step, whose micro-batches are `whole`."""
    share = p.share(step, rank, world)
    return [] if share.weightless else [x for index in share.indices for x in whole[index].tolist()]


def dealt(p: Plan, steps: int, world: int) -> list[int]:
    """Those of all ranks in the first steps, a rank after the other."""
    cut = [p.micro_batches(step) for step in range(steps)]
    return [x for rank in range(world) for step in range(steps) for x in dealt_to(p, step, rank, world, cut[step])]


@pytest.mark.parametrize("last", ["continue", "partial", "drop"])
def test_4096_ranks_cover_an_epoch_exactly_once(last: LastBatch) -> None:
    n, world = 12_301, 4096
    p = plan(n, 3 * 4096, 3, epochs=1, last=last, seed=4)
    positions = sorted(dealt(p, p.total_steps, world))
    consumed = {"continue": 2 * 3 * 4096, "partial": n, "drop": 3 * 4096}[last]
    assert positions == list(range(consumed))
    samples = p.samples_at(positions)
    assert len(set(samples[:n].tolist())) == min(n, consumed)


@given(sizes, st.integers(1, 70), st.sampled_from(["continue", "partial"]), st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_number_of_ranks_consumes_the_same_samples_in_the_same_micro_batches(
    size: tuple[int, int, int, int], world: int, last: LastBatch, weighted: bool, blocks: bool
) -> None:
    n, micro, share, epochs = size
    cumulative = np.arange(1.0, n + 1) if weighted else None
    p = replace(plan(n, micro * share, micro, epochs, last), cumulative=cumulative, blocks=blocks)
    for step in range(p.total_steps):
        whole = [p.samples_at(m).tolist() for m in p.micro_batches(step)]
        taken: dict[int, list[int]] = {}
        for rank in range(world):
            share_of_rank = p.share(step, rank, world)
            if not share_of_rank.weightless:
                for index in share_of_rank.indices:
                    assert index not in taken, "two ranks have it"
                    taken[index] = p.samples_at(p.micro_batches(step)[index]).tolist()
        assert [taken[index] for index in sorted(taken)] == whole


def test_of_a_billion_samples_4096_ranks_take_each_position_once() -> None:
    n, world, micro = 10**9, 4096, 8
    p = plan(n, 2 * world * micro, micro, epochs=90)
    for position in np.random.default_rng(0).integers(0, 90 * n, 5).tolist():
        step, within = divmod(position, p.global_batch)
        owners = [rank for rank in range(world) if within // micro in p.share(step, rank, world).indices]
        assert len(owners) == 1
        assert position in dealt_to(p, step, owners[0], world, p.micro_batches(step))


@pytest.mark.parametrize("epoch", [0, 89])
def test_of_a_billion_samples_none_comes_twice_in_an_epoch(epoch: int) -> None:
    n = 10**9
    within = np.unique(np.random.default_rng(epoch).integers(0, n, 200_000))
    samples = plan(n, 4096, epochs=90).samples_at(epoch * n + within)
    # Draws with replacement would repeat about 20 of them.
    assert len(np.unique(samples)) == len(within)
    assert samples.min() >= 0
    assert samples.max() < n


def test_memory_of_a_rank_does_not_depend_on_the_number_of_samples() -> None:
    def peak(n: int) -> int:
        tracemalloc.start()
        p = plan(n, 4096 * 4, 4, epochs=90, seed=1)
        for step in np.linspace(0, p.total_steps - 1, 5).astype(int).tolist():
            p.samples_at(dealt_to(p, step, 4095, 4096, p.micro_batches(step)))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10**3)  # what is made once
    assert peak(10**9) < 1.2 * peak(10**4) < 3_000_000


def test_4096_ranks_draw_each_stratum_of_a_balanced_epoch_once() -> None:
    n, world = 4096 * 3, 4096
    p = balanced(n, 4096, 1)
    samples = p.samples_at(dealt(p, 3, world))
    cumulative = p.cumulative
    assert cumulative is not None
    # A sample covers the strata that its weight touches: n strata of equal weight, each drawn from once.
    edges = cumulative / cumulative[-1] * n
    touched = np.ceil(edges) - np.floor(np.concatenate([[0], edges[:-1]]))
    drawn = np.bincount(samples, minlength=n)
    assert len(samples) == n
    assert (drawn <= touched).all()
    assert (drawn >= touched - 2).all()
