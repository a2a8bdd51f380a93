"""Key points beside their rules in Python numbers: maxima of dense maps, ties, borders, and what is left without."""

from typing import Any

import numpy as np
import oass_literal as literal
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from masksup.methods.key_points import local_maxima, place_of, present_pairs, strongest_present

S = 32
STRATEGIES = ["max", "cmax", "ctopk", "ctopk_w"]


def dense(kind: str, number: int) -> Tensor:
    """Maps with many maxima: noise, smooth hills, few levels (plateaus and ties), isolated cells as a CAM's."""
    draw = torch.Generator().manual_seed(number)
    if kind == "noise":
        return torch.rand(12, S, S, generator=draw)
    if kind == "levels":
        return (torch.rand(12, S, S, generator=draw) * 6).floor() / 6
    if kind == "flat":
        return torch.cat([torch.zeros(6, S, S), torch.ones(6, S, S)])
    cells = torch.rand(12, 1, 8, 8, generator=draw)
    if kind == "cells":
        cells = cells * (cells > 0.8)  # symmetric peaks of 2 x 2 equal pixels
    return F.interpolate(cells, (S, S), mode="bilinear")[:, 0]


KINDS = ["noise", "hills", "levels", "cells", "flat"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", [1, 2, 5, 13])
def test_local_maxima_are_those_of_the_rule_strongest_first(kind: str, distance: int) -> None:
    maps = dense(kind, distance)
    rows, columns, values, found = local_maxima(maps, distance, 7)
    several = 0
    for t, shown in enumerate(maps.numpy()):
        expected = literal.peak_local_max(shown, distance)[:7]
        count = int(found[t].sum())
        assert list(zip(rows[t, :count].tolist(), columns[t, :count].tolist())) == expected
        assert values[t, :count].tolist() == [float(shown[place]) for place in expected]
        assert found[t].tolist() == [True] * count + [False] * (7 - count)
        several += count > 1
    assert several == 0 if kind == "flat" else several > 3 or distance > S // 4


@pytest.mark.parametrize("compat", ["none", "original"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_places_are_those_of_the_rules(kind: str, strategy: Any, compat: Any) -> None:
    maps = dense(kind, 3)
    maps[0] = 0
    maps[1, 0, 0] = 2  # a peak in the corner
    for top, radius in ((3, 12.0), (5, 20.0)):
        rows, columns = place_of(strategy, maps, 2, radius, top, compat, S // 8)
        expected = [
            literal.key_point(strategy, shown, 2, radius, top, compat == "original", 8) for shown in maps.numpy()
        ]
        assert list(zip(rows.tolist(), columns.tolist())) == expected
        least = 1 if compat == "original" else S // 8
        assert min(rows.min(), columns.min()) >= least
        assert max(rows.max(), columns.max()) <= S - least
        assert (int(rows[0]), int(columns[0])) == (S // 2, S // 2), "nothing positive"


def test_the_rules_differ_where_they_should() -> None:
    maps, places = dense("noise", 4), {}
    for strategy in STRATEGIES:
        for compat in ("none", "original"):
            places[strategy, compat] = torch.stack(place_of(strategy, maps, 2, 14.0, 5, compat, 1))  # type: ignore[arg-type]
    clean, original = places["cmax", "none"], places["cmax", "original"]
    inside = (clean > 1).all(0)  # a peak at 0 is moved by one, and to the centre by the published code
    assert inside.any()
    assert torch.equal(clean[:, inside], original[:, inside])
    assert (original[:, (clean != original).any(0)] == S // 2).all()
    for strategy in ("ctopk", "ctopk_w"):
        assert not torch.equal(places[strategy, "none"], places[strategy, "original"])
    lost = places["ctopk_w", "none"] - places["ctopk_w", "original"]
    assert lost.min() >= 0
    assert 1 <= lost.max() < 5, "each of five addends loses less than a pixel"
    assert not torch.equal(places["ctopk", "none"], places["cmax", "none"])


def test_max_is_taken_over_the_present_classes() -> None:
    torch.manual_seed(0)
    maps, targets = torch.randn(3, 40, 6, 6), torch.zeros(3, 40, dtype=torch.int8)
    targets[0, [3, 39]], targets[1, 20], targets[1, 5] = 1, 1, -1
    best = strongest_present(maps, targets, S).numpy()
    for i, present in enumerate(([3, 39], [20], [])):
        shown = [literal.stretched(literal.activation(maps[i, c]), S) for c in present]
        np.testing.assert_allclose(best[i], np.max(shown, 0) if shown else np.zeros((S, S)), atol=1e-6)


@pytest.mark.parametrize("slots", [1, 4, 9, 20])
def test_present_pairs_give_every_image_its_likeliest_class_first(slots: int) -> None:
    torch.manual_seed(1)
    targets = torch.randint(-1, 2, (4, 5), dtype=torch.int8)
    targets[2] = 0
    logits = torch.randn(4, 5)
    image, label, valid = present_pairs(targets, logits, slots)
    ranked = []
    for i in range(4):
        present = sorted((c for c in range(5) if targets[i, c] == 1), key=lambda c: -float(logits[i, c]))
        ranked += [(turn, i, c) for turn, c in enumerate(present)]
    expected = [(i, c) for _, i, c in sorted(ranked)][:slots]
    assert len(image) == len(label) == len(valid) == slots
    assert list(zip(image.tolist(), label.tolist()))[: len(expected)] == expected
    assert valid.tolist() == [True] * len(expected) + [False] * (slots - len(expected))
