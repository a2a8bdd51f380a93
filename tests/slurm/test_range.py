"""A run that asks for one or two nodes goes on with what there is, and ends with the bits of one process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from launch.start.ledger import Folder, starts
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from tools.same_run import differences

from .conftest import PATIENCE, Cluster, step, until_finished, wait

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_two_nodes_then_one_then_two_end_with_the_bits_of_one_process(
    cluster: Cluster, config: Callable[..., Config], tmp_path: Path
) -> None:
    file, run, alone = tmp_path / "range.yaml", tmp_path / "run", tmp_path / "alone"
    file.write_text(to_yaml(config(epochs=160, batch__micro=4)))
    one = ["--cluster", "local", "--gpus-per-node", "0", "--ranks-per-node", "1", "--cpus-per-rank", "1"]
    cluster.launch("submit", str(file), "--run-dir", str(alone), *one)
    until_finished(alone, 4 * PATIENCE)

    small = ["--gpus-per-node", "1", "--cpus-per-rank", "1", "--time", "15", "--signal-seconds", "60"]
    cluster.launch("submit", str(file), "--run-dir", str(run), "--nodes", "1-2", *small)
    wait(lambda: step(run, 1) > 20, "steps on two nodes", 2 * PATIENCE)
    cluster.take(25, "--nodes=2")  # one node is left
    wait(lambda: step(run, 2) > 60, "steps on one node", 2 * PATIENCE)
    cluster.launch("requeue", str(run))
    history = until_finished(run, 4 * PATIENCE)
    assert [len(start.nodes) for start in history][:2] == [2, 1]
    assert [start.gpus for start in history][:2] == [2, 1], "GPU-hours count what was held"
    assert len(history) >= 3
    assert len(starts(Folder(run))) == len(history)
    assert differences(alone, run) == []
