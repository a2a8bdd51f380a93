"""docs/architecture.md names files that exist and floors in the order that is tested."""

import re
from pathlib import Path

from test_layers import FLOORS, LAUNCH

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_file_that_the_page_names_exists() -> None:
    named = re.findall(r"`((?:masksup|launch|tests)/[\w/.]+)`", TEXT)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_page_has_the_floors_in_their_order() -> None:
    for first, order in (("errors", FLOORS), ("ledger", LAUNCH)):
        found = re.search(rf"    {first} <.*?\n\n", TEXT, re.DOTALL)
        assert found is not None
        assert re.findall(r"\w+", found[0]) == order
