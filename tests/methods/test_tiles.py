"""Tiles and their maps beside slices and torch's own resizing, one crop after the other."""

import oass_literal as literal
import pytest
import torch
from torch.nn import functional as F

from masksup.methods.tiles import average_to, cut, join, merge, split


@pytest.mark.parametrize("side", [1, 2, 3])
def test_split_is_piece_by_piece_from_the_top_left_and_join_undoes_it(side: int) -> None:
    images = torch.randn(2, 3, 6 * side, 4 * side)
    tiles = split(images, side)
    assert tiles.shape == (2 * side**2, 3, 6, 4)
    expected = [
        images[i, :, 6 * r : 6 * r + 6, 4 * c : 4 * c + 4] for r in range(side) for c in range(side) for i in range(2)
    ]
    assert torch.equal(tiles, torch.stack(expected))
    assert torch.equal(join(tiles, side), images)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("size", "tile"), [(24, 12), (17, 8), (17, 23)])
def test_cut_is_a_slice_and_a_resize_for_every_place(mode: str, size: int, tile: int) -> None:
    images = torch.randn(3, 2, size, size)
    rows = torch.arange(1, size)
    columns = rows.flip(0) * 7 % (size - 1) + 1
    which = torch.arange(len(rows)) % 3
    tiles = cut(images, which, rows, columns, tile, mode).unflatten(0, (4, -1))
    for t in range(len(rows)):
        expected = literal.tiles_of(images[which[t]], (int(rows[t]), int(columns[t])), tile, mode)
        torch.testing.assert_close(tiles[:, t], torch.stack(expected), rtol=1e-4, atol=1e-5)
        if mode == "nearest":
            assert torch.equal(tiles[:, t], torch.stack(expected))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("grid", "tile"), [(32, 16), (7, 4), (9, 2), (2, 1), (5, 11)])
def test_merge_is_four_resizes_side_by_side_for_every_cut(mode: str, grid: int, tile: int) -> None:
    rows = torch.arange(1, grid)
    columns = rows.flip(0)
    maps = torch.randn(4 * len(rows), 3, tile, tile)
    merged = merge(maps, rows, columns, grid, grid, mode)
    for t in range(len(rows)):
        r, c = int(rows[t]), int(columns[t])
        parts = maps.unflatten(0, (4, -1))[:, t]
        a, b, d, e = (
            literal.resized(part, height, width, mode)
            for part, (height, width) in zip(parts, [(r, c), (r, grid - c), (grid - r, c), (grid - r, grid - c)])
        )
        expected = torch.cat([torch.cat([a, b], 2), torch.cat([d, e], 2)], 1)
        torch.testing.assert_close(merged[t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_nothing_beyond_the_cut_takes_part_in_a_tile(mode: str) -> None:
    image = torch.zeros(1, 1, 20, 20)
    image[:, :, 7:, 11:] = 1
    place = torch.tensor([7]), torch.tensor([11])
    tiles = cut(image, torch.tensor([0]), *place, 10, mode)
    assert [set(tile.flatten().tolist()) for tile in tiles] == [{0.0}, {0.0}, {0.0}, {1.0}]


@pytest.mark.parametrize(("before", "after"), [(8, 4), (9, 3), (8, 7), (14, 7), (3, 5)])
def test_averaging_keeps_the_mean_and_is_the_mean_of_what_a_position_covers(before: int, after: int) -> None:
    maps = torch.randn(2, 3, before, before)
    small = average_to(maps, after)
    torch.testing.assert_close(small.mean((2, 3)), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    fine = maps.repeat_interleave(after, 2).repeat_interleave(after, 3)
    torch.testing.assert_close(small, F.avg_pool2d(fine, before), rtol=1e-4, atol=1e-5)


def test_gradients_of_merge_are_those_of_the_resizes() -> None:
    maps = torch.randn(4, 2, 4, 4, requires_grad=True)
    merged = merge(maps, torch.tensor([3]), torch.tensor([6]), 7, 7, "bilinear")[0]
    weight = torch.randn_like(merged)
    (ours,) = torch.autograd.grad((merged * weight).sum(), maps)
    sizes = [(3, 6), (3, 1), (4, 6), (4, 1)]
    a, b, d, e = (F.interpolate(part[None], s, mode="bilinear")[0] for part, s in zip(maps, sizes))
    (theirs,) = torch.autograd.grad((torch.cat([torch.cat([a, b], 2), torch.cat([d, e], 2)], 1) * weight).sum(), maps)
    torch.testing.assert_close(ours, theirs)
