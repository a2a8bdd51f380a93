"""The time in which this process could run, for every limit on how long somebody may take.

A job that is suspended, by SIGSTOP or `scontrol suspend`, grows older by any clock of the machine; but nothing that it
waits for could have happened meanwhile. Imports nothing heavy.
"""

import threading
import time

_LONGEST = 2.0  # seconds between two looks at the clock that count; what is longer was not lived
_lock = threading.Lock()
_seconds, _looked = 0.0, time.monotonic()


def lived() -> float:
    """Seconds that this process has lived, of which two calls count 2 at most: whoever waits looks every second."""
    global _seconds, _looked
    with _lock:
        now = time.monotonic()
        _seconds += min(now - _looked, _LONGEST)
        _looked = now
        return _seconds
