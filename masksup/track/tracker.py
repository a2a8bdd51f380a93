"""What a tracker does, whichever it is."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Protocol

from masksup.base.words import reason
from masksup.errors import JobError, UserError
from masksup.track.run import TrackedRun


class Tracker(Protocol):
    """Sends what it does not have yet. UserError for what a user can mend, JobError where a server does not answer."""

    def send(self, run: TrackedRun, *, artifacts: bool) -> int:
        """Bring the tracker up to date. Returns how many points were sent, which it did not have before."""

    def where(self, run: TrackedRun) -> str:
        """Where to look at it: an address, or the command that sends what was written offline."""

    def close(self) -> None:
        """End what is open; all that was sent has arrived then."""


def installed(name: str) -> ModuleType:
    """The library of that name. UserError that names the extra where it is missing."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default waits for minutes
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"--to {name}: {error.name} is not installed; pip install 'masksup[{name}]'") from None


@contextmanager
def answering(name: str, errors: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
    """Have the tracker's own errors told in one line."""
    try:
        yield
    except errors as error:
        text = re.sub(r"\s+", " ", reason(error))
        raise JobError(f"{name}: {text[:400]}") from error
