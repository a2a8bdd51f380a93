"""The exceptions that are told to people in one line."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = re.compile(r"\S{400,}")  # longer than the paths and values that people write, as in a damaged file
_MOST = 4000  # letters of a whole line: the names of a thousand classes are no hint any more


class UserError(ValueError):
    """A mistake in the user's input. The command line prints its text as one line and exits with 2.

    The text names the file or the key, what was found and what was expected.
    """

    def __init__(self, text: str = "") -> None:
        text = _LONGEST.sub(lambda word: f"{word[0][:100]}...{word[0][-100:]}", text)
        super().__init__(text if len(text) <= _MOST else f"{text[: _MOST // 2]} ... {text[-_MOST // 2 :]}")


class ToldElsewhere(UserError):
    """A mistake of the user that another rank tells; this one only leaves, with 2."""


class JobError(RuntimeError):
    """The job broke, not the input: a rank is missing, dead or stuck. One line, exit status 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    # Two letters that changed places are half of a name of two; of a longer one, half is another word.
    close = get_close_matches(name, names, n=1, cutoff=0.5 if len(name) < 4 else 0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"
