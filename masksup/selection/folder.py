"""The folder of a search: one process works in it, and a search that is refused leaves it as it was."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from masksup.errors import UserError
from masksup.selection.decided import as_options

_LOCK = ".auto.lock"


class Busy(UserError):
    """Another process is at work in the folder, and what is there is its own."""


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep other searches out of the folder. Raises Busy where one is at work there."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"--out {out}: another masksup auto is at work in this folder; wait for it, or take another --out"
            ) from None
        except OSError:
            pass  # no locks on this file system; the runs of the folds have a fence of their own
        yield


@contextmanager
def taken_back(out: Path) -> Iterator[None]:
    """Where the search is refused, remove what it has written: what was not there before. The message names the options
    of `masksup auto`."""
    ours = [path for path in (out / "data", out / "rungs", out / _LOCK) if not path.exists()]
    above = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    except Busy:
        raise
    except UserError as error:
        for path in ours:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for folder in above:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise UserError(as_options(str(error))) from None
