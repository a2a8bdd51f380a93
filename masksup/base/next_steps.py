"""The commands that come after one, to be copied: the last lines of it."""

import shlex
from collections.abc import Iterator, Sequence

from masksup.base.log import console, log

Step = tuple[Sequence[object], str]
"""The words of a command, and what it is for."""


def next_lines(*steps: Step) -> Iterator[str]:
    """A line a command, its words quoted for a shell; two lines where the terminal is too narrow for one."""
    commands = [shlex.join(map(str, words)) for words, _ in steps]
    width = max(map(len, commands))
    lines = [f"  {command.ljust(width)}   # {meaning}" for command, (_, meaning) in zip(commands, steps)]
    yield "next:"
    if not console.is_terminal or max(map(len, lines)) <= console.width:
        yield from lines
        return
    for command, (_, meaning) in zip(commands, steps):
        yield f"  # {meaning}"
        yield f"  {command}"


def tell_next(*steps: Step) -> None:
    """Log them."""
    for line in next_lines(*steps):
        log.info(line)
