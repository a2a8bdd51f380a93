"""The pointing game against a plain loop, on maps whose highest position is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from masksup.config.schema import Config
from masksup.data.index import CROWD, DIFFICULT, open_index
from masksup.data.split import whole
from masksup.engine.build import new_method, new_network
from masksup.errors import UserError
from masksup.explain.class_maps import ClassMaps
from masksup.explain.pointing import pointing_game
from masksup.saved.open import Trained

GRID = 8


def test_counted_are_maps_whose_highest_position_lies_in_a_box(
    tiny_data: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_index(tiny_data / "val")
    config = tiny_config()
    network = new_network(config, 12)
    method = new_method(config, network, 12, None).eval()
    trained = Trained(config, index.classes, network, method, "x/step-1", "0" * 64, 1, 1.0, "live", None, "")
    maps_NCHW = torch.rand(len(index), 12, GRID, GRID, generator=torch.Generator().manual_seed(0))
    turn = iter(range(len(index)))
    monkeypatch.setattr(
        "masksup.explain.pointing.class_maps", lambda *_: ClassMaps("activation", maps_NCHW[next(turn)][None])
    )
    found = pointing_game(trained, whole(index))
    pairs = hits = 0
    chance = 0.0
    for n in range(len(index)):
        boxes_K4, class_K, _, flags_K = index.boxes(n)
        for c in np.flatnonzero(index.labels_NC[n] == 1):
            mine = [
                box for box, k, flags in zip(boxes_K4, class_K, flags_K) if k == c and not flags & (DIFFICULT | CROWD)
            ]
            if not mine:
                continue
            inside = [
                (row, column)
                for row in range(GRID) for column in range(GRID)
                if any(x1 <= (column + 0.5) * 6 < x2 and y1 <= (row + 0.5) * 6 < y2 for x1, y1, x2, y2 in mine)
            ]  # fmt: skip
            pairs += 1
            hits += divmod(int(maps_NCHW[n, c].argmax()), GRID) in inside
            chance += len(inside) / GRID**2
    assert (found.pairs, found.hits) == (pairs, hits)
    assert 0 < hits < pairs
    assert found.chance == pytest.approx(chance / pairs)
    cut = config.model_copy(update={"augment": config.augment.model_copy(update={"eval_resize": "center_crop"})})
    with pytest.raises(UserError, match="squish"):
        pointing_game(replace(trained, config=cut), whole(index))
