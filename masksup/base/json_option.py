"""`--json [FILE]`, alike in every command that prints a table: the same for programs, as one JSON value."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from masksup.base.files import as_json, finite, refuse_unwritable_file, write_atomically
from masksup.errors import UserError

STDOUT = "-"


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Define the option; `what` it writes, for its help."""
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE",
        help=f"{what} as JSON, such as --json found.json; without FILE to standard output, and all else to standard "
             "error",
    )  # fmt: skip


def json_file(into: str | None) -> Path | None:
    """The file that `--json FILE` names; None for standard output, or without the option."""
    return None if into in (None, STDOUT) else Path(str(into))


@contextmanager
def given_as_json(into: str | None) -> Iterator[Callable[[Any], None]]:
    """Write the value that is given within, at the end, if the option asks for it. Nothing is written after an error.

    What is printed meanwhile goes to standard error where the value goes to standard output. UserError, before
    anything is done, if FILE cannot be written.
    """
    given: list[Any] = []
    file = json_file(into)
    if file is not None:
        if "=" in file.name:
            raise UserError(f"--json: found '{file}', expected the name of a file; write settings before --json")
        refuse_unwritable_file("--json", file)
    with redirect_stdout(sys.stderr) if into == STDOUT else nullcontext():
        yield given.append
    if into is None or not given:
        return
    text = as_json(finite(given[0]), indent=1)
    if file is None:
        print(text, flush=True)
    else:
        write_atomically(file, text + "\n")
