"""What may be put into other languages: lines of a batch script, patterns of file names, PYTHONPATH, variables."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from masksup.errors import UserError

_CONTROL = {"Cc": "a line end or another control character", "Cs": "bytes that are not UTF-8"}
# SLURM replaces `%j` and the like in the name of a log file, and takes a backslash for the end of that.
_IN_FOLDERS = {"%": "SLURM replaces it in names of log files", "\\": "SLURM drops it from names of log files",
               ":": "it would split PYTHONPATH, and the run would use other code than its copy"}  # fmt: skip
_OURS = ("MASKSUP_", "SLURM_", "PYTHONPATH", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_")


def refuse_unsafe(where: str, value: Any, folder: bool = False) -> None:
    """UserError if a text, or one inside a list or mapping, cannot be said to SLURM and bash as it is.

    where: the key or option, for the error. folder: the text is the path of a folder that logs and code lie in.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            refuse_unsafe(where, str(key))
            refuse_unsafe(f"{where}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            refuse_unsafe(where, inner)
    elif isinstance(value, (str, Path)):
        for letter in str(value):
            reason = _CONTROL.get(unicodedata.category(letter)) or (folder and _IN_FOLDERS.get(letter))
            if reason:
                raise UserError(f"{where}: found {letter!r} in {str(value)!r}, expected none: {_why(letter, reason)}")


def _why(letter: str, reason: str) -> str:
    return reason if letter in _IN_FOLDERS else f"{reason} would end its line in the batch script"


def refuse_folders(folders: Iterable[Path]) -> None:
    """UserError for a run folder whose name SLURM or Python would change."""
    for folder in folders:
        refuse_unsafe("run folder", folder, folder=True)


def refuse_variables(where: str, names: Iterable[str]) -> None:
    """UserError for names that are none of a variable, or that the launcher sets itself."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise UserError(f"{where}: found the name {name!r}, expected letters, digits and _")
        if name in _OURS or name.startswith(("MASKSUP_", "SLURM_", "MASTER_")):
            raise UserError(f"{where}: found {name}, which the launcher sets itself, expected another variable")
