"""A request to stop is a flag: it is set by a signal and acted on at a step boundary (rule 6).

Imports nothing heavy, so that the handlers stand before torch is loaded.
"""

import signal
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
_received: list[str] = []


def install() -> None:
    """Turn TERM, USR2 and Ctrl-C into the flag, and let through those that a launcher blocked until now."""
    for number in _SIGNALS:
        signal.signal(number, _receive)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _receive(number: int, _: FrameType | None) -> None:
    if number == signal.SIGINT and _received:
        raise KeyboardInterrupt  # a second Ctrl-C means now; the run folder stays good
    _received.append(signal.Signals(number).name)


def stop_code(name: str | None) -> int:
    """A request as a number from 1, or 0 for none, so that ranks can agree on the largest."""
    return 0 if name is None else 1 + [s.name for s in _SIGNALS].index(name)


def stop_name(code: int) -> str:
    """The name of the signal that `stop_code` made `code` of."""
    return _SIGNALS[code - 1].name


def stop_requested() -> str | None:
    """The name of the first signal that asked this process to stop, or None."""
    return _received[0] if _received else None
