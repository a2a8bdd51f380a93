"""Numbers, kinds of values and odd letters as people read them."""

import unicodedata
from collections.abc import Sequence

MANY = 300  # classes beyond which a table shows the first and the worst alone
SHOWN = 40
_LISTED = 20


def counted(number: int, thing: str) -> str:
    """`number` with its noun: "1 image", "1,200 images", "2 classes"."""
    hissed = thing.endswith(("s", "x", "ch", "sh")) and not thing.endswith("epoch")
    ending = "" if number == 1 else "es" if hissed else "s"
    return f"{number:,} {thing}{ending}"


def listed(names: Sequence[str]) -> str:
    """Names in a line, of many the first: "cat, dog", "a, b, ... and 980 more"."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f", ... and {more:,} more" if more > 0 else "")


def kind_of(value: object) -> str:
    """What a value of YAML or JSON is, for people."""
    kinds = {"NoneType": "nothing", "dict": "mapping", "str": "text", "bool": "true or false"}
    return kinds.get(type(value).__name__, "number" if isinstance(value, int | float) else type(value).__name__)


def figure(value: float) -> str:
    """Three digits and no exponent: 0.123, 45.6, 1,170."""
    return f"{float(f'{value:.3g}'):,.15g}"


# Controls with line breaks and tabs, what separates lines and paragraphs, and the halves that stand for bytes of a
# file name that are no UTF-8, which cannot be printed at all.
_UNPRINTED = {"Cc", "Zl", "Zp", "Cs"}


def first_line(text: str) -> str:
    """The first line of a text that says something; "" where none does."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def reason(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return first_line(str(error)) or type(error).__name__


def printable(text: str) -> str:
    """`text` with its control characters as in Python (\\n, \\t, \\x1b): a terminal obeys none of them."""
    if text.isprintable():
        return text
    return "".join(ascii(letter)[1:-1] if unicodedata.category(letter) in _UNPRINTED else letter for letter in text)


def one_line(text: str) -> str:
    """`text` as it is shown within a line: as `printable`, and the backslash as two, so that it can be taken back."""
    return printable(text.replace("\\", "\\\\"))


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a class on every page, in every table and file: of 1 to 200 letters."""
    return len(text.strip()) > 0 and len(text) <= 200 and printable(text) == text


def shortened(name: str, room: int) -> str:
    """A name cut in its middle: the beginnings of names in a sweep are alike, and so are their ends."""
    if len(name) <= room:
        return name
    head = (room - 1) // 2
    return f"{name[:head]}…{name[len(name) - (room - 1 - head) :]}"
