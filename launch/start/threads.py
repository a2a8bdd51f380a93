"""A process that forks must have one thread: all others would be missing in what it forks."""

import os
import warnings
from pathlib import Path

from masksup.base.words import counted


def assert_one_thread() -> None:
    """AssertionError where there are more."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"found {counted(threads, 'thread')}, of which a fork would lose all but one"


def end_pool() -> None:
    """End the threads that OpenBLAS has had since numpy was imported, where a rank has several cores.

    OpenBLAS ends them before a fork by itself, and begins as many again where they are needed: so a rank has what it
    would have without a keeper.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
