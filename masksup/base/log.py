"""Lines for people: on the terminal as they are, in `logs/rank*.log` with time and level."""

import logging
import sys
from pathlib import Path

from rich.console import Console

from masksup.base.words import printable

console = Console(highlight=False, soft_wrap=True, emoji=False)  # of a name such as runs/:dog:
log = logging.getLogger("masksup")
FILE_ONLY = {"file_only": True}  # `extra` of a line that the terminal gets in another way


class _ToFile(logging.FileHandler):
    """A disk that refuses the log is told once. What it refused stays in the buffer until there is room."""

    _refused = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._refused:
            self._refused = True
            text = f"ALARM: {self.baseFilename}: could not be written, training goes on: {error.strerror}"
            _print(text, "bold red")


def _print(text: str, style: str) -> None:
    """A line on the terminal, which may be a file on a full disk: then there is nobody to tell."""
    try:
        # Names of files and classes are somebody's: none may speak to the terminal, which obeys control characters.
        shown = "\n".join(map(printable, text.split("\n")))
        # A terminal that is too narrow gets whole words; commands to be copied, which are set in, stay as they are.
        copied = text.startswith("  ") or not console.is_terminal
        console.print(shown, style=style, markup=False, soft_wrap=copied)
    except BrokenPipeError:  # the reader of a pipe, such as head, has left
        raise
    except OSError:
        return


class _ToConsole(logging.Handler):
    """Prints above a progress bar instead of through it. Other ranks than 0 only warn, under their name."""

    def __init__(self, rank: int) -> None:
        super().__init__(logging.WARNING if rank else logging.INFO)
        self._who = f"[rank {rank}] " if rank else ""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "file_only", False):
            return
        style = "bold red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else ""
        _print(self._who + record.getMessage(), style)


def start_logging(file: Path | None = None, rank: int = 0) -> None:
    """Send the program's lines to the terminal, and to `file` too; of other ranks than 0 only warnings go there."""
    log.handlers.clear()
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(_ToConsole(rank))
    if file is not None:
        handler = _ToFile(file, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
    sys.stdout.flush()
