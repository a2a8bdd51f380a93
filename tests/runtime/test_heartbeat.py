"""The sign of life that a training leaves."""

import json
from pathlib import Path

import pytest

from masksup.runtime import heartbeat


def test_the_last_step_is_written_before_the_process_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a launcher that reads it once the ranks are gone may find one of two seconds ago."""
    monkeypatch.setattr(heartbeat, "_place", {})
    file = tmp_path / "heartbeat.json"
    for step in range(50):
        stop = heartbeat.start(file, "7.0", every_seconds=60)
        heartbeat.note(last_step=step)
        stop()
        assert json.loads(file.read_text())["last_step"] == step
