"""What a process does that is not root: a folder without permission is then closed to it."""

import ctypes
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CAPABILITIES_V3 = 0x20080522


def without_privileges(folder: Path, work: Callable[[], Any]) -> Any:
    """What `work` gives or raises in a process of this user that the permissions of files hold for, even if it is root.

    folder: where the answer is put.
    """
    answer = folder / "answer.pickle"
    answer.touch()
    with answer.open("wb") as file:
        child = os.fork()
        if child == 0:
            try:
                header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
                assert ctypes.CDLL(None).capset(header, none) == 0
                try:
                    found: tuple[bool, Any] = (True, work())
                except BaseException as error:
                    found = (False, error)
                file.write(pickle.dumps(found))
                file.flush()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    fine, value = pickle.loads(answer.read_bytes())
    answer.unlink()
    if not fine:
        raise value
    return value
