"""What the preparers share in reading options and text: splits by name, class lists, labels from objects."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masksup.base import files
from masksup.base.words import counted, is_name
from masksup.data.prepare.tables.words import same_but_case, seems_nothing
from masksup.errors import UserError

# Coordinates beyond this are damage; up to it boxes are finite in float32, sums and all.
MAX_NUMBER = 1e9
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SPLIT_RULE = "a letter or digit, then letters, digits, '.', '_', '-'; at most 100"
_LOOKS_LIKE_FILE = re.compile(r".*(/.*|\.[A-Za-z0-9]{1,5})")


def split_of(file: str, option: str) -> str:
    """`NAME=FILE` for a file that gives a split its name. UserError, naming `option`, where it cannot."""
    name = Path(file).stem
    if not SPLIT_NAME.fullmatch(name):
        raise UserError(
            f"{option}: found '{file}', but a split cannot be called '{name}' ({SPLIT_RULE}); expected another name, "
            f"given by --split NAME={file}"
        )
    return f"{name}={file}"


def _named(value: str) -> str:
    """What was meant by a file without the name of its split."""
    name = Path(value.partition(":")[0]).stem
    return f"; did you mean {name}={value}?" if "=" not in value and SPLIT_NAME.fullmatch(name) else ""


def named_splits(values: list[str]) -> dict[str, str | None]:
    """`NAME=FILE` or `NAME` -> {name: file or None}. Names become folders, so they are letters, digits, . _ -"""
    splits: dict[str, str | None] = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not SPLIT_NAME.fullmatch(name) or (equals and not file):
            raise UserError(f"--split: found '{value}', expected NAME=FILE or NAME ({SPLIT_RULE}){_named(value)}")
        if name in splits:
            raise UserError(f"--split: found the split '{name}' twice, expected each once")
        splits[name] = file or None
    return splits


def existing_file(file: str, *folders: Path) -> Path:
    """`file` as given (from the current folder), else below one of `folders`. UserError if there is none."""
    for candidate in (Path(file), *(folder / file for folder in folders)):
        if candidate.is_file():
            return candidate
    raise UserError(f"{file}: no such file, expected it here or below {folders[0]}")


def class_list(text: str, root: Path) -> tuple[str, ...]:
    """Classes from a comma list or a file with one a line. UserError for an empty or repeating list.

    A single word that looks like a file is one, since a mistyped file would become a class of that name.
    """
    listed = "," not in text and ((root / text).is_file() or Path(text).is_file())
    if "," not in text and not listed and _LOOKS_LIKE_FILE.fullmatch(text):
        raise UserError(f"--classes {text}: no such file, expected it here or below {root}, or a list A,B,C")
    lines = read_text(existing_file(text, root)).splitlines() if listed else text.split(",")
    classes = tuple(line.strip() for line in lines if line.strip())
    return require_classes(classes, f"--classes {text}")


def require_classes(classes: tuple[str, ...], where: str) -> tuple[str, ...]:
    """`classes` if they are some, all different and each a text that can be stored, else UserError."""
    if not classes:
        raise UserError(f"{where}: found no class, expected at least one")
    for number, name in enumerate(classes, 1):
        if not is_name(name):
            raise UserError(
                f"{where}: found {name!a} as the name of class {number}, expected 1 to 200 letters of Unicode without "
                "control characters"
            )
    repeated = sorted(name for name, times in Counter(classes).items() if times > 1)
    if repeated:
        raise UserError(f"{where}: found the class '{repeated[0]}' twice, expected each once")
    return classes


def spellings(names: Iterable[str], same_case: bool) -> tuple[dict[str, str], list[str]]:
    """What each name is called that differs from an earlier one in case or blanks only, and what to say of the names.

    Without `same_case` they stay classes of their own, and nothing is called otherwise.
    """
    names = [*names]
    empty = [name for name in dict.fromkeys(names) if seems_nothing(name)]
    told = [
        f"'{name}' becomes a class; to leave it out, remove it from the annotations, or for COCO name the others by "
        "--classes"
        for name in empty
    ]
    first: dict[str, str] = {}
    alike = {name: usual for name in names if (usual := first.setdefault(same_but_case(name), name)) != name}
    if not alike:
        return {}, told
    shown = "; ".join(f"'{usual}' and '{name}'" for name, usual in list(alike.items())[:8])
    if same_case:
        return alike, [*told, f"{counted(len(alike), 'spelling')} taken as the same class: {shown}"]
    return {}, [*told, f"classes that differ in writing only: {shown}; --same-case makes them one"]


def storable(text: str) -> bool:
    """Whether `text` can be written as UTF-8: JSON and file names can hold halves of surrogate pairs."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_text(file: Path) -> str:
    """The text of a UTF-8 file (a byte order mark is dropped). UserError if it is missing or something else."""
    try:
        return files.read_text(file, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: found bytes that are no UTF-8 (at {error.start}), expected text") from error
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}, expected a readable text file") from error


def labels_of(classes: int, box_class_K: NDArray[np.int16], weak_K: NDArray[np.bool_], weak: str) -> NDArray[np.int8]:
    """Labels of one image: present with at least one object, or what `weak` says where all are weak.

    `weak_K` marks the objects of the doubtful kind (VOC "difficult", COCO crowd); a class that has only such
    is "ignore"d (-1), "present" (1) or "absent" (0).
    """
    labels_C = np.zeros(classes, np.int8)
    labels_C[box_class_K[weak_K]] = {"ignore": -1, "present": 1, "absent": 0}[weak]
    labels_C[box_class_K[~weak_K]] = 1
    return labels_C
