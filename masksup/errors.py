"""The exceptions that are told to people in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in the user's input. The command line prints its text as one line and exits with 2.

    The text names the file or the key, what was found and what was expected.
    """


class ToldElsewhere(UserError):
    """A mistake of the user that another rank tells; this one only leaves, with 2."""


class JobError(RuntimeError):
    """The job broke, not the input: a rank is missing, dead or stuck. One line, exit status 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"
