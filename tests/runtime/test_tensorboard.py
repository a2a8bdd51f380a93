"""The folder of a sweep in TensorBoard, in a real browser."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import dump_dom

from masksup.config.schema import Config
from masksup.training.train import train

RUNS = {"slow/seed0": 0.001, "fast/seed0": 0.01}


@pytest.fixture
def address(tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of TensorBoard on the folder of a sweep of two runs."""
    monkeypatch.setenv("MASKSUP_HPARAMS", "optim.lr")
    for name, lr in RUNS.items():
        assert train(tiny_config(optim__lr=lr), tmp_path / "sweep" / name) == 0
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "sweep"), "--port", "0"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        while not (found := re.search(r"at (http://\S+:\d+)/", (tmp_path / "log").read_text())):
            assert process.poll() is None, (tmp_path / "log").read_text()
        yield found[1]
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.browser
def test_a_sweep_shows_all_its_runs_and_what_tells_them_apart(address: str, tmp_path: Path) -> None:
    page, _ = dump_dom(f"{address}/#timeseries", tmp_path / "profile", 20_000)
    for text in (
        *RUNS,
        "0_overview/train_loss",
        "0_overview/eval_mAP",
    ):  # the first cards; those further down come when one scrolls
        assert text in page, f"{text} is not on the page"
    assert "HPARAMS" in page.upper()

    asked = {
        "experimentName": "", "allowedStatuses": ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_UNKNOWN"],
        "colParams": [], "startIndex": 0, "sliceSize": 100,
    }  # fmt: skip
    groups = json.load(hparams(address, "session_groups", asked))["sessionGroups"]
    assert {group["name"]: group["hparams"]["optim.lr"] for group in groups} == RUNS
    assert all(group["hparams"]["optim.name"] == "adamw" for group in groups)
    columns = json.load(hparams(address, "experiment", {"experimentName": "", "includeMetrics": True}))
    assert columns["hparamInfos"][0]["name"] == "optim.lr", "what differs stands first"
    assert columns["metricInfos"][0]["name"]["tag"] == "0_overview/eval_mAP"
    shown = {metric["name"]["tag"] for group in groups for metric in group["metricValues"]}
    assert "eval/mAP" in shown


def hparams(address: str, what: str, asked: dict[str, Any]) -> Any:
    """What the page of the HParams tab is answered."""
    place = f"{address}/experiment/defaultExperimentId/data/plugin/hparams/{what}"
    headers = {"Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(place, json.dumps(asked).encode(), headers), timeout=60)
