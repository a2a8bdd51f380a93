"""The fixed binary tree in which the gradients of a step's micro-batches are added, whatever the ranks.

A node is a range of micro-batches, `(first, stop)`. One of n micro-batches splits after the largest power of two below
n. Floating-point sums depend on their order, so every rank adds what the tree adds, in the tree's order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from masksup.data.sampler import block

Node = tuple[int, int]
Gradients = list[Tensor | None]
"""Of each parameter; None where a micro-batch had none, which adds nothing (0.0 would turn -0.0 into 0.0)."""


def halves(node: Node) -> tuple[Node, Node]:
    """The two children of a node of several micro-batches."""
    first, stop = node
    middle = first + (1 << ((stop - first - 1).bit_length() - 1))
    return (first, middle), (middle, stop)


def siblings(one: Node, other: Node, leaves: int) -> bool:
    """Whether two nodes, the left one first, are the children of one node in the tree of so many micro-batches."""
    node = (0, leaves)
    while node[1] - node[0] > 1:
        left, right = halves(node)
        if (one, other) == (left, right):
            return True
        node = left if other[1] <= left[1] else right
        if not (node[0] <= one[0] and other[1] <= node[1]):
            return False
    return False


def tiles(part: range, leaves: int) -> list[Node]:
    """The largest nodes that lie in a block of micro-batches, in order: what its rank can add up by itself."""

    def within(node: Node) -> list[Node]:
        if part.start <= node[0] and node[1] <= part.stop:
            return [node]
        if node[1] <= part.start or part.stop <= node[0]:
            return []
        left, right = halves(node)
        return within(left) + within(right)

    return within((0, leaves)) if len(part) else []


@dataclass
class Fold:
    """The gradients of a block of micro-batches, added up as far as the tree allows; at most 1 + log2 of them wait."""

    leaves: int
    nodes: list[tuple[Node, Gradients]] = field(default_factory=list)

    def of(self, parameters: Sequence[int]) -> "Fold":
        """That of some parameters, by their numbers; their tensors are shared."""
        return Fold(self.leaves, [(node, [gradients[at] for at in parameters]) for node, gradients in self.nodes])

    def forget(self, parameters: Sequence[int]) -> None:
        """Give up the sums of some parameters."""
        for _, gradients in self.nodes:
            for at in parameters:
                gradients[at] = None

    def add(self, node: Node, gradients: Gradients) -> None:
        """Take the next node. Adds in place: the tensors belong to the fold from now on."""
        while self.nodes and siblings(self.nodes[-1][0], node, self.leaves):
            before, sums = self.nodes.pop()
            node, gradients = (before[0], node[1]), _sum(sums, gradients)
        self.nodes.append((node, gradients))


def _sum(left: Gradients, right: Gradients) -> Gradients:
    both = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(left, right, strict=True)]


def most_gradients(leaves: int, world: int) -> int:
    """How many gradients a rank holds at most: the one of the micro-batch it is at, and those that wait."""
    longest = 0
    for rank in range(min(world, leaves)):
        fold = Fold(leaves)
        for index in block(rank, world, leaves):
            longest = max(longest, len(fold.nodes) + 1)
            fold.add((index, index + 1), [])
        longest = max(longest, len(fold.nodes))
    return longest


def combined(node: Node, parts: dict[Node, Tensor]) -> Tensor:
    """The sum of a node from those of nodes that tile it."""
    if node in parts:
        return parts[node]
    left, right = halves(node)
    return combined(left, parts) + combined(right, parts)


def meets_by_halving(tiles_of_ranks: Sequence[Sequence[Node]], leaves: int) -> bool:
    """Whether ranks that add to their neighbour at distance 1, 2, 4, ... add what the tree adds."""
    nodes = [tile for own in tiles_of_ranks for tile in own]
    if len(nodes) != len(tiles_of_ranks) or any(len(own) != 1 for own in tiles_of_ranks):
        return False
    while len(nodes) > 1:
        if len(nodes) % 2 or not all(siblings(a, b, leaves) for a, b in zip(nodes[::2], nodes[1::2], strict=True)):
            return False
        nodes = [(a[0], b[1]) for a, b in zip(nodes[::2], nodes[1::2], strict=True)]
    return True
