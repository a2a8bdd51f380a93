"""What becomes of a run whose ranks have left."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.cluster.resources import Resources
from launch.ledger import Start
from launch.start.decide import Left, bad_nodes, crashes_in_vain, first_error, outcome, why_not_again

HOUR = Resources(nodes=2, gpus_per_node=2, time="1:00:00", signal_seconds=90)


def rank(status: int, host: str = "n1", error: str | None = None, time: float = 0.0) -> dict[str, Any]:
    return {"status": status, "host": host, "error": error, "time": time}


def left(statuses: dict[int, int], world: int = 4, **more: Any) -> Left:
    given: dict[str, Any] = {"status": 0, "seconds": 600.0, "finished": False, "cancelled": False, **more}
    return Left(world, exits={k: rank(v, f"n{k // 2 + 1}") for k, v in statuses.items()}, **given)


@pytest.mark.parametrize(
    ("statuses", "more", "expected"),
    [
        ({0: 0, 1: 0, 2: 0, 3: 0}, {"finished": True}, "done"),
        ({0: 75, 1: 75, 2: 75, 3: 75}, {}, "preempted"),
        ({0: 75, 1: 75, 2: 75, 3: 75}, {"seconds": 3600.0 - 100}, "timeout"),
        ({0: 75, 1: 75, 2: 75, 3: 75}, {"seconds": 3600.0 - 149}, "timeout"),  # SLURM's clock is coarse
        ({0: 75, 1: 75, 2: 75, 3: 75}, {"cancelled": True}, "cancelled"),
        ({0: 75, 1: 75, 2: 75, 3: 1}, {}, "crashed"),
        ({0: 2, 1: 2, 2: 2, 3: 2}, {}, "wrong"),
        ({0: 2}, {}, "wrong"),
        ({0: 1, 1: 1}, {}, "lost"),  # the other node said nothing
        ({}, {"status": 137}, "lost"),
        ({0: 76, 1: 1}, {}, "superseded"),
        ({0: 0, 1: 0, 2: 0, 3: 0}, {}, "crashed"),  # ended well, but there is no result
    ],
)
def test_outcome(statuses: dict[int, int], more: dict[str, Any], expected: str) -> None:
    assert outcome(left(statuses, **more), HOUR) == expected


def test_a_short_job_that_is_preempted_did_not_time_out() -> None:
    short = Resources(time="2", signal_seconds=60)
    for seconds in (10.0, 61.0):
        assert outcome(left({0: 75}, world=1, seconds=seconds, preempted=True), short) == "preempted"
        assert outcome(left({0: 75}, world=1, seconds=seconds), short) == "timeout"


def start(number: int, result: str | None, first: int | None = None, last: int | None = None) -> Start:
    return Start(number, "1", number - 1, 0.0, outcome=result, first_step=first, last_step=last)


def history(*results: str) -> list[Start]:
    return [start(k + 1, result, 10 * k, 10 * k + 10) for k, result in enumerate(results)]


def test_time_limits_and_preemptions_have_budgets_of_their_own() -> None:
    limits = Resources(max_preemptions=2, max_timeouts=1)
    assert why_not_again("preempted", history(*["timeout"] * 9, "preempted", "preempted"), limits) is None
    assert "3 times preempted" in str(why_not_again("preempted", history(*["preempted"] * 3), limits))
    assert why_not_again("timeout", history(*["preempted"] * 9, "timeout"), limits) is None
    assert "2 times timeout" in str(why_not_again("timeout", history("timeout", "timeout"), limits))


@pytest.mark.parametrize("result", ["done", "wrong", "cancelled", "superseded"])
def test_what_is_over_is_not_started_again(result: str) -> None:
    assert why_not_again(result, history(result), Resources()) == result


def test_crashes_at_the_same_step_are_counted_and_progress_forgives() -> None:
    same = [start(k, "crashed", 90, 100) for k in range(1, 5)]
    limits = Resources(max_failures=3)
    assert why_not_again("crashed", same[:3], limits) is None
    assert "4 crashes without progress" in str(why_not_again("crashed", same, limits))
    further = [*same[:3], start(4, "crashed", 90, 200)]
    assert crashes_in_vain(further) == 1
    assert why_not_again("crashed", further, limits) is None


def test_crashes_before_the_first_step_are_counted() -> None:
    assert crashes_in_vain([start(k, "crashed") for k in range(1, 6)]) == 5


@given(st.lists(st.sampled_from(["crashed", "lost", "interrupted"]), min_size=21, max_size=40))
def test_losses_are_bounded_even_with_progress(results: list[str]) -> None:
    assert why_not_again(results[-1], history(*results), Resources(max_losses=20)) is not None


def test_the_error_shown_is_the_cause_and_not_a_peer_that_noticed() -> None:
    exits = {
        0: rank(1, "n1", "RuntimeError: [gloo] Connection closed by peer", 5.0),
        3: rank(1, "n2", "ValueError: bad pixel", 9.0),
    }
    found = first_error(Left(4, 1, exits, 1.0, False, False))
    assert found == "rank 3 on n2: ValueError: bad pixel"


@pytest.mark.parametrize(
    "said",
    [
        "srun: error: n1: task 0: Out Of Memory\n",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.\n",
    ],
)
def test_a_rank_that_the_kernel_killed_for_its_memory_is_not_started_again(said: str) -> None:
    """The same would happen again. Its peers only noticed, and their words are not the cause."""
    exits = {1: rank(1, "n1", "RuntimeError: [gloo] Connection closed by peer", 5.0)}
    killed = Left(2, 137, exits, 1.0, False, False, srun=said)
    assert outcome(killed, Resources()) == "wrong"
    assert why_not_again("wrong", [], Resources()) == "wrong"
    line = str(first_error(killed))
    assert line.startswith("out of memory: rank 0 was killed")
    assert all(name in line for name in ("batch.micro", "model.grad_checkpointing", "eval.batch", "data.workers"))
    assert (
        outcome(Left(2, 137, exits, 1.0, False, False, srun="srun: error: n1: task 0: Killed\n"), Resources()) == "lost"
    )


@pytest.mark.parametrize(
    ("said", "at_first", "later"),
    [
        ("srun: error: Unable to create step for job 7: Invalid generic resource (gres) specification", "lost", "lost"),
        (
            "srun: error: Unable to create step: Requested node configuration is not available",
            "wrong",
            "lost",
        ),
        ("srun: unrecognized option '--gpu-bnd'", "wrong", "lost"),
        ("srun: error: Unable to create step for job 7: Socket timed out", "lost", "lost"),
    ],
)
def test_what_srun_refuses_is_for_good_only_where_no_start_of_the_job_has_trained(
    said: str, at_first: str, later: str
) -> None:
    """Queued again, a job may be given nodes with other GPUs; the limit of crashes without progress ends it."""
    refused = left({}, status=1, srun=said)
    assert outcome(refused, HOUR) == at_first
    assert outcome(replace(refused, trained_before=True), HOUR) == later
    assert said.removeprefix("srun: ").removeprefix("error: ") in str(first_error(refused))


def test_a_rank_without_a_word_is_named() -> None:
    assert str(first_error(Left(2, 137, {}, 1.0, False, False))).startswith("rank 0 left no word")


def test_bad_nodes_are_those_that_are_down_or_silent() -> None:
    some = left({0: 1, 1: 1})
    assert bad_nodes(some, ["n1", "n2"], {"n1": "mixed", "n2": "idle"}) == ["n2"]
    assert bad_nodes(some, ["n1", "n2"], {"n1": "down*", "n2": "idle"}) == ["n1", "n2"]
    nobody = left({}, status=1)
    assert bad_nodes(nobody, ["n1", "n2"], {"n1": "idle", "n2": "idle"}) == [], (
        "srun itself failed: no node is to blame"
    )
