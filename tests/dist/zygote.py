"""Starts ranks by forking, so that each does not spend seconds on importing torch; run by ranks.py.

Reads one JSON request a line and answers each with one line. What it started is killed when its input ends.
"""

import json
import os
import signal
import sys
import time
import traceback
from typing import Any


def main() -> None:
    import masksup.output.scores
    import masksup.saved.score
    import masksup.training.train  # noqa: F401  what every rank would import
    from masksup.cli import main as command

    print("ready", flush=True)
    children: dict[int, int | None] = {}
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if "argv" in request:
            pid = os.fork()
            if pid == 0:
                _become(request, command)
            children[pid] = None
            print(pid, flush=True)
            continue
        _reap(children)
        print(json.dumps(children), flush=True)
    for pid, status in children.items():
        if status is None:
            os.kill(pid, signal.SIGKILL)
    os._exit(0)  # an ordinary end takes seconds to give all of torch back


def _become(request: dict[str, Any], command: Any) -> None:
    os.setsid()
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.environ.update(request["env"])
    status = 1
    try:
        exec(request["probe"], {})
        status = command(request["argv"])
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _reap(children: dict[int, int | None]) -> None:
    for pid, status in children.items():
        if status is None:
            found, raw = os.waitpid(pid, os.WNOHANG)
            if found:
                children[pid] = os.waitstatus_to_exitcode(raw)
    time.sleep(0.005)


if __name__ == "__main__":
    main()
