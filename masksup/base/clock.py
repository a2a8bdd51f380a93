"""The time of day as of the start of this process, which then runs on by itself whatever is done to the clock.

Differences of it are seconds that passed, though the clock of the machine is set in between. Imports nothing heavy.
"""

import time

_OFFSET = time.time() - time.monotonic()


def now() -> float:
    """Seconds since 1970, as `time.time` gave them when this was imported, and what passed since."""
    return _OFFSET + time.monotonic()
