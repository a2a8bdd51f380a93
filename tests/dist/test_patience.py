"""All ranks end a run that improves no more at the same step, also where it is cut off there."""

import json
from pathlib import Path
from typing import Any

import pytest
from compare import assert_same_run
from ranks import Launcher

ZERO_3 = {"parallel__engine": "deepspeed", "parallel__zero_stage": 3}


@pytest.mark.parametrize("engine", [{}, pytest.param(ZERO_3, marks=pytest.mark.slow)], ids=["ddp", "zero3"])
def test_ranks_end_early_together_and_go_on_to_the_same_end(
    engine: dict[str, Any], job: Launcher, write_config, tmp_path: Path
) -> None:
    """With a rate for each layer, which is part of the state."""
    optim = {"name": "sgd", "lr": 1e-12, "layer_decay": 0.5}
    config = write_config(epochs=12, stop={"patience_epochs": 1}, optim=optim, **engine)
    job.to_the_end(2, config, tmp_path / "clean")
    told = json.loads((tmp_path / "clean" / "result.json").read_text())["stopped_early"]
    assert told["step"] < told["of_steps"]

    dying = "import os\nimport masksup.training.train as m\ndef die(run):\n    os._exit(9)\nm.finish = die\n"
    ranks = job.train(2, config, tmp_path / "cut", probe=dying)
    assert set(ranks.wait()) <= {9, 1}, ranks.text()
    assert not (tmp_path / "cut" / "result.json").exists()
    job.to_the_end(2, config, tmp_path / "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "clean")
    again = json.loads((tmp_path / "cut" / "result.json").read_text())["stopped_early"]
    assert again == told
