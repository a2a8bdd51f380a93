"""Names of images that spreadsheets and browsers have changed: found again, and said, before they count as missing."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from masksup.base.words import counted
from masksup.data.prepare.tables.words import IMAGE_SUFFIXES, looks_like_image
from masksup.errors import UserError

_FRACTION = re.compile(r"(\d+)\.0*")


def refuse_repairable(root: Path, missing: dict[str, str], images: int) -> None:
    """UserError where at least half of the `missing` images (name: where it stands) of a split are there under the name
    that was meant. They are not broken, and so are not left out."""
    if not missing:
        return
    files = _files(root)
    for meant, how in _REPAIRS:
        by_meaning: dict[str, list[str]] = {}
        for file in files:
            by_meaning.setdefault(meant(file), []).append(file)
        found = {name: there[0] for name in missing if len(there := by_meaning.get(meant(name), [])) == 1}
        if 2 * len(found) >= len(missing):
            name = next(iter(found))
            raise UserError(
                f"{missing[name]}: found no image '{name}', but '{found[name]}': {how}; {len(found):,} of "
                f"{counted(len(missing), 'missing image')} (of {images:,} in all) would be found so"
            )


def _files(root: Path) -> list[str]:
    return [
        Path(place, name).relative_to(root).as_posix()
        for place, _, names in os.walk(root)
        for name in names
        if looks_like_image(name)
    ]


def _decoded(path: str) -> str:
    return unquote(path).casefold()


def _stem(path: str) -> str:
    """Without the ending of an image."""
    ending = next((ending for ending in IMAGE_SUFFIXES if path.casefold().endswith(ending)), "")
    return path[: len(path) - len(ending)]


def _number(path: str) -> str:
    """The file's name as a number, without zeros before or behind it; a name that is none stays as it is."""
    name = path.rsplit("/", 1)[-1].casefold()
    ending = next((ending for ending in IMAGE_SUFFIXES if name.endswith(ending)), "")
    stem = name.removesuffix(ending)
    if match := _FRACTION.fullmatch(stem):
        stem = match[1]
    return str(int(stem)) if stem.isdecimal() else path


_REPAIRS: tuple[tuple[Callable[[str], str], str], ...] = (
    (_decoded, "the names are written as in an address, where %20 is a blank; write them as the files are called"),
    (_stem, "the names have another ending than the files, or none; write them as the files are called"),
    (
        _number,
        "the names were read as numbers, which lose their zeros or become 1.0; write them as the files are called, as "
        "text (in pandas: read_csv(..., dtype=str))",
    ),
)
