"""What keepers agree on when one of them, or a whole node, says nothing any more."""

import threading
import time

import pytest
from torch._C._distributed_c10d import HashStore

from launch.start import council as module
from launch.start.council import Agreement, Council
from launch.start.recover import recovery

HAS = {
    n: {"number": n, "host": f"n{1 + n // 2}", "steps": steps} for n, steps in enumerate([[4, 8], [8], [8, 12], [8]])
}
BEFORE = Agreement("rank 1 died", 4, 9)
PLAN = Agreement("rank 3 died", 8, 9, members=[0, 1, 2, 3])
OTHERS = "nothing is heard of the keepers of ranks 2, 3 on n2"


def without(*missing: int) -> dict[str, object]:
    return {
        "has": {number: row for number, row in HAS.items() if number not in missing},
        "missing": {number: str(HAS[number]["host"]) for number in missing},
    }


@pytest.mark.parametrize(
    ("gone", "before", "fewest", "plan"),
    [
        ((), [], 2, PLAN),
        ((), [BEFORE, BEFORE], 2, PLAN),  # there is a newer snapshot since
        ((), [PLAN, BEFORE, PLAN], 2, Agreement(stop="rank 3 died, after 2 recoveries at step 9")),
        ((2, 3), [], 2, Agreement(OTHERS, 8, 9, members=[0, 1])),
        ((2, 3), [], 3, Agreement(f"{OTHERS}; found 2 ranks left, expected 3", 8, 9, members=[0, 1], leave=True)),
        ((3,), [], 1, Agreement(stop="nothing is heard of the keeper of rank 3 on n2")),  # its place would stand empty
    ],
)
def test_the_plan_after_something_broke(
    gone: tuple[int, ...], before: list[Agreement], fewest: int, plan: Agreement
) -> None:
    assert recovery("rank 3 died", before=before, reached=9, fewest=fewest, **without(*gone)) == plan


def test_there_is_nothing_to_save_where_no_snapshot_is_left() -> None:
    there = {0: {"host": "n1", "steps": [4]}, 1: {"host": "n2", "steps": [8]}}
    assert recovery("", there, {}, [], 9, 1) == Agreement("", None, 9, members=[0, 1]), "from the disk"
    assert recovery("", there, {2: "n3"}, [], 9, 3).stop is not None


def test_a_keeper_that_falls_silent_is_left_out_and_learns_of_it_when_it_wakes_up(monkeypatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    monkeypatch.setattr(module, "LOST_S", 1.0)
    store, plans, decided = HashStore(), {}, threading.Event()
    councils = [Council(store, number, 3, ("", 0)) for number in range(3)]

    def decide(missing: list[int], has: list[dict[str, object]]) -> Agreement:
        decided.set()
        there = [number for number in range(3) if number not in missing]
        assert [bool(row) for row in has] == [number in there for number in range(3)]
        return Agreement(f"{missing}", members=there)

    def begin(_: list[int], has: list[dict[str, object]]) -> Agreement:
        assert [row["number"] for row in has] == [0, 1, 2]
        return Agreement()

    def live(council: Council) -> None:
        council.next({"number": council.number}, 60, begin)
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            council.beat()
            time.sleep(0.02)
        if council.number == 1:
            decided.wait(60)  # the whole node stands still
        plans[council.number] = council.next({"number": council.number}, 60, decide)

    threads = [threading.Thread(target=live, args=(council,)) for council in councils]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [plans[number] for number in range(3)] == [Agreement("[1]", members=[0, 2])] * 3
    assert [council.members for council in councils] == [[0, 2]] * 3
    assert (councils[0].rank, councils[2].rank) == (0, 1)
    assert [row["number"] for row in councils[2].has()] == [0, 2]
