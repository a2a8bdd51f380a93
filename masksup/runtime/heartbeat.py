"""A sign of life for who watches from outside: where the run is, in a small file that a thread keeps fresh.

Started by a launcher, or by the training itself where there is none. Imports nothing heavy.
"""

import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from masksup.base import clock
from masksup.base.files import as_json, parse_json, written_whole
from masksup.runtime import fence

_last_words: list[Callable[[int, str | None], None]] = []
_place: dict[str, Any] = {"phase": "starting"}
_LAST_S = 5.0
"""How long the end waits for the last beat, which a disk may hold up."""


def note(**values: Any) -> None:
    """Say where the run is: phase, last_step, total_steps. Costs no more than the assignment."""
    if "last_step" in values:
        now = clock.now()
        if "first_step" not in _place:
            _place.update(first_step=values["last_step"], first_step_at=now)
        if "ready_at" not in _place:
            # Of this process, which may not be the first of its start.
            _place.update(ready_at=now, from_step=values["last_step"])
        elif "went_on_at" not in _place:
            _place["went_on_at"] = now  # its first own step is done
        _place["last_step_at"] = now
    _place.update(values)


def on_leave(write: Callable[[int, str | None], None]) -> None:
    """Have `write` called with exit status and error, whoever it is that ends this process."""
    _last_words.append(write)


def leave(status: int, error: str | None) -> None:
    """This process ends now; only the first word counts."""
    if _last_words:
        _last_words.pop()(status, error)


def start(path: Path, token: str, every_seconds: float = 2.0) -> Callable[[], None]:
    """Keep `path` fresh until what is returned is called, or the process ends. The call leaves the last step there."""
    ended = threading.Event()
    _go_on(path, token)
    _write(path, token)
    beat = threading.Thread(target=_beat, args=(path, token, every_seconds, ended), name="heartbeat", daemon=True)
    beat.start()

    def stop() -> None:
        ended.set()
        beat.join(_LAST_S)

    return stop


def _go_on(path: Path, token: str) -> None:
    """A rank that was started anew within a start goes on with what the one before says of the whole start."""
    with suppress(OSError, ValueError):
        before = parse_json(path.read_bytes())
        if token and before.get("token") == token:
            _place.update({key: before[key] for key in ("first_step", "first_step_at") if key in before})


def _beat(path: Path, token: str, every_seconds: float, ended: threading.Event) -> None:
    while not ended.wait(every_seconds):
        fence.check()
        _write(path, token)
    _write(path, token)


def _write(path: Path, token: str) -> None:
    # Who watches compares `time` with a clock of today; `seen` goes with the other times of this process.
    row = {
        "token": token, "time": time.time(), "seen": clock.now(), "host": platform.node(), "pid": os.getpid(), **_place
    }  # fmt: skip
    # No disk that refuses, whatever for, stops the training or this thread; who watches sees that the file grows old.
    with suppress(OSError), written_whole(path) as partial:
        partial.write_text(as_json(row) + "\n", encoding="utf-8")
