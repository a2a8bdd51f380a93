"""Work that threads do ahead of who asks for it: in order, not too far ahead, and with its errors where they belong."""

import threading
import time

import pytest

from masksup.data.ahead import ahead


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_is_made_comes_in_order_and_an_error_at_its_item(threads: int) -> None:
    def make(number: int) -> int:
        time.sleep(0.002 * (5 - number % 5))  # later items are done sooner
        if number == 7:
            raise ValueError("seven")
        return number * number

    made = ahead(make, range(20), threads, 4)
    assert [next(made) for _ in range(7)] == [number * number for number in range(7)]
    with pytest.raises(ValueError, match="seven"):
        next(made)


def test_it_is_at_most_so_many_ahead_and_stops_when_nobody_asks() -> None:
    begun: list[int] = []
    made = ahead(lambda number: begun.append(number), range(1000), 2, 5)
    next(made)
    next(made)
    time.sleep(0.05)
    assert sorted(begun) == list(range(7)), "two were asked for, and five are ready"
    made.close()  # type: ignore[attr-defined]
    assert len(begun) == 7
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
