"""The watch of the fake device sees what it is there for."""

from collections.abc import Callable
from typing import Any

import pytest

Ask = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *((name, "asks the device") for name in ("item", "bool", "nonzero", "boolean_index", "boolean_assignment")),
        *((name, "asks the device") for name in ("masked_select", "unique", "repeats")),
        ("cpu", "a copy cuda to cpu"),
        *((name, "a copy cpu to cuda") for name in ("tensor", "new_tensor", "to", "copy")),
        *((name, "is not deterministic") for name in ("reflection_pad", "adaptive_pool")),
        ("mixed_devices", "devices"),
    ],
)
def test_it_finds_what_is_wrong(fake_cuda: Ask, name: str, what: str) -> None:
    found = fake_cuda({"probe": name})["found"]
    assert len(found) == 1, found
    assert what in found[0]


def test_it_finds_nothing_in_what_is_right(fake_cuda: Ask) -> None:
    answer = fake_cuda({"probe": "harmless"})
    assert answer["found"] == [], answer["trace"]
    assert any(name.endswith(" bfloat16") for name in answer["operators"])
