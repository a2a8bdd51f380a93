"""How every command of this program ends: a mistake is one line and the status 2, whatever the program is called."""

import errno
import sys
from collections.abc import Callable
from contextlib import suppress

from masksup.errors import JobError, ToldElsewhere, UserError

USER_ERROR, BUG, INTERRUPTED, READER_LEFT = 2, 1, 130, 141
STOPPED = 75  # asked to stop: the same command goes on (EX_TEMPFAIL)
# What a file system says of a place that the user chose; any other error of it is a bug and shows where.
_REFUSALS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip


def status_of(program: str, run: Callable[[], int]) -> int:
    """The exit status of `run`, or that of the error it ends with, told in one line that begins with `program`.

    Bugs are raised on, with their traceback.
    """
    try:
        return run()
    except ToldElsewhere:
        return USER_ERROR
    except (UserError, JobError) as error:
        if str(error):
            _tell(program, " ".join(str(error).split()))
        return USER_ERROR if isinstance(error, UserError) else BUG
    except BrokenPipeError:  # the reader of a pipe, such as head, has left
        sys.stderr.close()
        return READER_LEFT
    except OSError as error:
        if error.filename is None or error.errno not in _REFUSALS:
            raise
        _tell(program, f"{error.filename}: {error.strerror}")
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _tell(program: str, text: str) -> None:
    with suppress(OSError):  # the log may lie on the disk that is full; the status says it all the same
        print(f"{program}: {text}", file=sys.stderr, flush=True)
