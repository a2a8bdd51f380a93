"""The fixed tree of a step's micro-batches: whatever the ranks, the same additions."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from masksup.data.sampler import block
from masksup.engine.parallel.buckets import buckets
from masksup.engine.parallel.tree import Fold, Node, combined, halves, meets_by_halving, most_gradients, siblings, tiles

counts = st.integers(1, 70)


def expression(node: Node) -> str:
    """The additions of a node, written down."""
    if node[1] - node[0] == 1:
        return str(node[0])
    left, right = halves(node)
    return f"({expression(left)}+{expression(right)})"


class Text:
    """What `combined` adds, as the text of the additions."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __add__(self, other: "Text") -> "Text":
        return Text(f"({self.text}+{other.text})")


def test_a_node_splits_after_the_largest_power_of_two_below_its_size() -> None:
    assert expression((0, 4)) == "((0+1)+(2+3))"
    assert expression((0, 6)) == "(((0+1)+(2+3))+(4+5))"
    assert expression((3, 6)) == "((3+4)+5)"


@given(counts, counts)
def test_tiles_of_all_ranks_are_nodes_that_cover_the_step(leaves: int, world: int) -> None:
    own = [tiles(block(rank, world, leaves), leaves) for rank in range(world)]
    nodes = [node for rank in own for node in rank]
    assert [index for first, stop in nodes for index in range(first, stop)] == list(range(leaves))
    whole = combined((0, leaves), {node: Text(expression(node)) for node in nodes})  # type: ignore[dict-item]
    assert whole.text == expression((0, leaves))  # type: ignore[attr-defined]
    longest = max(map(len, own))
    assert longest <= 2 * max(1, (-(-leaves // world)).bit_length())


@given(counts, counts)
def test_a_block_is_folded_into_its_tiles_as_it_comes(leaves: int, world: int) -> None:
    values = [torch.randn(7) for _ in range(leaves)]
    for rank in range(world):
        part = block(rank, world, leaves)
        fold = Fold(leaves)
        for index in part:
            fold.add((index, index + 1), [values[index].clone()])
            assert len(fold.nodes) <= 1 + 2 * leaves.bit_length()
        assert [node for node, _ in fold.nodes] == tiles(part, leaves)
        for node, (found,) in fold.nodes:
            assert found is not None
            assert torch.equal(found, _added(node, values))


def _added(node: Node, values: list[Tensor]) -> Tensor:
    if node[1] - node[0] == 1:
        return values[node[0]]
    left, right = halves(node)
    return _added(left, values) + _added(right, values)


def test_no_gradient_adds_nothing() -> None:
    fold = Fold(2)
    fold.add((0, 1), [torch.tensor(-0.0), None, None])
    fold.add((1, 2), [None, torch.tensor(2.0), None])
    ((node, (one, other, none)),) = fold.nodes
    assert node == (0, 2)
    assert one is not None
    assert torch.signbit(one), "0.0 would have been added"
    assert other == 2.0
    assert none is None


@given(counts, st.sampled_from([1, 2, 4, 8, 16]))
def test_neighbours_meet_where_that_is_the_tree(leaves: int, world: int) -> None:
    own = [tiles(block(rank, world, leaves), leaves) for rank in range(world)]
    if not meets_by_halving(own, leaves):
        assert leaves % world or (leaves // world) & (leaves // world - 1) or (world == 1 and leaves == 0)
        return
    nodes = [node for (node,) in own]
    while len(nodes) > 1:
        assert all(siblings(a, b, leaves) for a, b in zip(nodes[::2], nodes[1::2], strict=True))
        nodes = [(a[0], b[1]) for a, b in zip(nodes[::2], nodes[1::2], strict=True)]
    assert nodes == [(0, leaves)]


@pytest.mark.parametrize("world", [2, 4, 8])
def test_as_many_micro_batches_as_ranks_meet_by_halving(world: int) -> None:
    assert meets_by_halving([tiles(block(rank, world, world), world) for rank in range(world)], world)
    assert not meets_by_halving([tiles(block(rank, 3, 4), 4) for rank in range(3)], 4)


@given(counts, st.randoms())
def test_siblings_are_the_children_of_one_node(leaves: int, draw: random.Random) -> None:
    pairs = set()

    def walk(node: Node) -> None:
        if node[1] - node[0] > 1:
            pairs.add(halves(node))
            for child in halves(node):
                walk(child)

    walk((0, leaves))
    for _ in range(50):
        first, middle, stop = sorted(draw.sample(range(leaves + 3), 3))
        one, other = (first, middle), (middle, stop)
        assert siblings(one, other, leaves) == ((one, other) in pairs)
    assert all(siblings(one, other, leaves) for one, other in pairs)


@pytest.mark.parametrize("world", [2, 3])
def test_gradients_lie_in_buckets_as_parameters_lie_in_memory(world: int) -> None:
    conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    parameters = [*conv.parameters(), nn.Parameter(torch.randn(5, 300)), nn.Parameter(torch.randn(2, 3))]
    gradients = [torch.randn_like(p) if at != 3 else None for at, p in enumerate(parameters)]
    found = buckets(parameters, order=[0, 1, 2, 3], elements=1000, world=world)
    assert [list(bucket.parameters) for bucket in buckets(parameters, [2, 0, 1, 3], 1000, world)] == [[3, 1, 0, 2]]
    assert [list(bucket.parameters) for bucket in found] == [[3, 2], [1, 0]]
    for bucket in found:
        flat = bucket.flat([gradients[at] for at in bucket.parameters])
        assert len(flat) % world == 0
        for at, view in bucket.gradients(flat):
            assert view.stride() == parameters[at].stride()
            assert (view.data_ptr() - flat.data_ptr()) % 512 == 0, "aligned as a tensor of its own"
            expected = gradients[at]
            if expected is None:
                assert torch.signbit(view).all(), "-0.0, which changes nothing that it is added to"
                assert (view == 0).all()
            else:
                assert torch.equal(view, expected)


@pytest.mark.parametrize(
    ("leaves", "world", "most"), [(1, 1, 1), (4, 4, 1), (2, 1, 2), (4, 1, 3), (8, 1, 4), (8, 2, 3), (64, 1, 7)]
)
def test_a_rank_holds_about_as_many_gradients_as_its_block_has_bits(leaves: int, world: int, most: int) -> None:
    assert most_gradients(leaves, world) == most
