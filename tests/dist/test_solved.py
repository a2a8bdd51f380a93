"""A head that is solved is the same to the bit on any number of ranks, also where one of them is asked to stop."""

import json
import signal
from pathlib import Path

from compare import assert_same_run
from ranks import Launcher

from masksup.runtime.checkpoint import list_checkpoints

# Rank 0 waits, once it looks whether it should stop, until it should.
_HELD = """
import time
from masksup.base.signals import stop_requested
from masksup.training import solve

def held():
    print("solving", flush=True)
    while not stop_requested():
        time.sleep(0.05)
    return stop_requested()

solve.stop_requested = held
"""


def test_one_and_three_ranks_stopped_or_not_are_bit_equal(job: Launcher, write_config, tmp_path: Path) -> None:
    config = write_config(
        model__frozen=True, model__head={"name": "linear"}, optim={"name": "lbfgs"}, ema={"decay": 0.0}, batch={}
    )
    job.to_the_end(1, config, tmp_path / "one")
    job.to_the_end(3, config, tmp_path / "three")
    assert_same_run(tmp_path / "three", tmp_path / "one")

    ranks = job.train(3, config, tmp_path / "cut", probe=_HELD)
    ranks.until(lambda: "solving" in ranks.text())
    for rank in range(3):
        ranks.signal(rank, signal.SIGTERM)
    assert ranks.wait() == [75] * 3, ranks.text()
    assert [path.name for path in list_checkpoints(tmp_path / "cut" / "checkpoints")] == ["step-000000000-a01"]
    job.to_the_end(2, config, tmp_path / "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "one")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "three", "cut")]
    assert results[0]["solved"] == results[1]["solved"] == results[2]["solved"]
