"""A run that asks for one or two nodes goes on with what there is, and ends with the bits of one process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from compare import assert_same_run

from .conftest import PATIENCE, Cluster, Submit, state, step, until_finished, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_two_nodes_then_one_then_two_end_with_the_bits_of_one_process(
    cluster: Cluster, submit: Submit, undisturbed: Callable[[], tuple[Path, Path]]
) -> None:
    run = submit(nodes="1-2")
    wait(lambda: step(run, 1) > 20, "steps on two nodes")
    assert (state(run).nodes, state(run).ranks) == (2, 2)
    cluster.take(15, "--nodes=2")  # one node is left
    wait(lambda: step(run, 2) > 60, "steps on one node")
    assert (state(run).nodes, state(run).ranks) == (1, 1)
    cluster.launch("requeue", str(run))
    history = until_finished(run, 2 * PATIENCE)
    assert [len(start.nodes) for start in history] == [2, 1, 2]
    assert [start.gpus for start in history] == [2, 1, 2], "GPU-hours count what was held"
    assert_same_run(undisturbed()[1], run)
