"""Lines for people."""

import io
import signal
from pathlib import Path

import pytest

from masksup.base import signals
from masksup.base.log import log, start_logging


def test_names_in_a_line_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"runs/:dog:/[bold]x[/bold] 3.5 {'long ' * 40}"
    start_logging()
    log.info(line)
    assert capsys.readouterr().out == f"{line}\n"


def test_a_disk_that_refuses_the_log_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(Path("/dev/full"))
    for number in range(20):
        log.info(f"line {number}")
    start_logging()
    out = capsys.readouterr().out
    assert out.count("ALARM: /dev/full: could not be written, training goes on: No space left on device") == 1
    assert out.count("line ") == 20


def test_a_signal_is_kept_where_standard_error_has_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's has none."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with signals.caught("stops"):
        signal.raise_signal(signal.SIGTERM)
        assert signals.stop_requested() == "SIGTERM"
