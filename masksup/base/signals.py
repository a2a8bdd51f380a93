"""A request to stop is a flag: it is set by a signal and acted on at a step boundary (rule 6).

Imports nothing heavy, so that the handlers stand before torch is loaded.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
_received: list[str] = []


def install(told: str = "") -> None:
    """Turn TERM, USR2 and Ctrl-C into the flag, and let through those that a launcher blocked until now.

    told: what to print when the first one comes, since a step may take long; "": nothing.
    """
    for number in _SIGNALS:
        signal.signal(number, partial(_receive, told))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextmanager
def caught(told: str = "") -> Iterator[None]:
    """As `install` as long as the context lasts; then signals do what they did before. Python has them in the main
    thread alone: elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    install(told)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _receive(told: str, number: int, _: FrameType | None) -> None:
    name = signal.Signals(number).name
    if number == signal.SIGINT and name in _received:
        raise KeyboardInterrupt  # a second Ctrl-C means now; the run folder stays good
    if told and not _received:  # not by print: the signal may have come in the middle of a line
        with suppress(OSError, ValueError):  # a notebook's has no descriptor
            os.write(sys.stderr.fileno(), f"\nmasksup: {name}: {told}; a second Ctrl-C leaves at once\n".encode())
    _received.append(name)


def stop_code(name: str | None) -> int:
    """A request as a number from 1, or 0 for none, so that ranks can agree on the largest."""
    return 0 if name is None else 1 + [s.name for s in _SIGNALS].index(name)


def stop_name(code: int) -> str:
    """The name of the signal that `stop_code` made `code` of."""
    return _SIGNALS[code - 1].name


def stop_requested() -> str | None:
    """The name of the first signal that asked this process to stop, or None."""
    return _received[0] if _received else None
