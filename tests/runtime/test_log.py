"""Lines for people."""

import pytest

from masksup.base.log import log, start_logging


def test_names_in_a_line_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"runs/:dog:/[bold]x[/bold] 3.5 {'long ' * 40}"
    start_logging()
    log.info(line)
    assert capsys.readouterr().out == f"{line}\n"
