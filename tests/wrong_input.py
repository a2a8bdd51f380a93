"""Mistakes as a user sees them."""

import pytest

from masksup.cli import main


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that refuses its input says: one line, exit status 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err
