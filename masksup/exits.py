"""How every command of this program ends: a mistake is one line and the status 2, whatever the program is called."""

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from masksup.base.exhausted import exhausted
from masksup.base.words import printable
from masksup.errors import JobError, ToldElsewhere, UserError

USER_ERROR, BUG, INTERRUPTED, READER_LEFT = 2, 1, 130, 141
STOPPED = 75  # asked to stop: the same command goes on (EX_TEMPFAIL)
# What a file system says of a place that the user chose; any other error of it is a bug and shows where.
_REFUSALS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip


def told(error: BaseException) -> UserError | JobError | None:
    """The error as it is told in one line, such as a full disk or memory that is used up; None for a bug."""
    if isinstance(error, UserError | JobError):
        return error
    if isinstance(error, OSError) and error.filename is not None and error.errno in _REFUSALS:
        return UserError(f"{error.filename}: {error.strerror}")
    return exhausted(error)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Have what goes wrong raised as the UserError or JobError that tells it in one line; bugs are raised as they are.

    For callers from Python, where a command would print that line.
    """
    try:
        yield
    except Exception as error:
        line = told(error)
        if line is None or line is error:
            raise
        raise line from error


def status_of_error(error: BaseException) -> int:
    """With which status a process ends because of it."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return USER_ERROR if isinstance(told(error), UserError) else BUG


def status_of(program: str, run: Callable[..., int | None], *arguments: Any) -> int:
    """The exit status of `run` with its arguments (0 where it gives none), or that of the error it ends with.

    The error is told in one line that begins with `program`. Bugs are raised on, with their traceback.
    """
    try:
        return run(*arguments) or 0
    except BrokenPipeError:  # the reader of a pipe, such as head, has left
        sys.stderr.close()
        return READER_LEFT
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        line = told(error)
        if line is None:
            raise
        if str(line) and not isinstance(line, ToldElsewhere):
            with suppress(OSError):  # the log may lie on the disk that is full; the status says it all the same
                print(f"{program}: {printable(' '.join(str(line).split()))}", file=sys.stderr, flush=True)
        return status_of_error(line)
