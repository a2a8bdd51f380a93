"""What runs on a rank: python -P -m launch.start.rank RUN_FOLDER, with signals blocked until the handlers stand."""

from masksup.base import signals

signals.install()  # before anything that takes time to import

import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from pathlib import Path  # noqa: E402

import launch  # noqa: E402
from launch.ledger import Folder, read_json  # noqa: E402
from launch.start.start import SHOWN_S, leave_word  # noqa: E402
from masksup.base.lived import lived  # noqa: E402
from masksup.base.place import find_place  # noqa: E402
from masksup.errors import ToldElsewhere, UserError  # noqa: E402
from masksup.exits import BUG, status_of_error, told  # noqa: E402
from masksup.runtime import fence, heartbeat  # noqa: E402


def main(run: Path) -> int:
    """Train the run of this folder as one of its ranks. Returns the exit status, as in `masksup.exits`."""
    folder, start = Folder(run), int(os.environ["MASKSUP_START"])
    rank, error = int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0), None
    heartbeat.on_leave(lambda status, said: leave_word(folder, start, rank, status, said, _recovery()))
    try:
        status = _train(folder, rank)
    except BaseException as problem:
        status, line = status_of_error(problem), told(problem)
        error = " ".join(str(line).split()) if line else traceback.format_exception_only(problem)[-1].strip()
        if line is None and status == BUG:
            traceback.print_exc()
        elif line is not None and error and not isinstance(line, ToldElsewhere):
            print(f"masksup: rank {rank}: {error}", file=sys.stderr, flush=True)
    heartbeat.leave(status, error)
    return status


def _train(folder: Folder, rank: int) -> int:
    token = os.environ["MASKSUP_TOKEN"]
    wait_for_token(folder, token)
    refuse_other_code(folder)
    fence.hold(folder.fence, token)
    heartbeat.note(recovery=_recovery())
    stop = heartbeat.start(folder.heartbeat, token) if rank == 0 else None
    try:
        from masksup.config.load import load_config
        from masksup.training.train import train

        return train(load_config(folder.config)[0], folder.run, find_place())
    finally:
        if stop is not None:
            stop()


def _recovery() -> int:
    """How often a keeper has forked this rank anew."""
    return int(os.environ.get("MASKSUP_RECOVERY") or 0)


def refuse_other_code(folder: Folder) -> None:
    """UserError unless this process runs the copy of the code that was made for the run."""
    copy, own = read_json(folder.job).get("code"), Path(launch.__file__ or "").resolve().parents[1]
    if copy is not None and Path(copy).resolve() != own:
        raise UserError(
            f"{folder.run}: the ranks run the code in {own}, expected the run's copy in {copy}; look for a PYTHONPATH "
            "that the container or `setup` sets"
        )


def wait_for_token(folder: Folder, token: str, patience: float = SHOWN_S) -> None:
    """UserError where this node does not see what the first node wrote into the run folder."""
    end = lived() + patience
    while True:
        try:
            found = folder.fence.read_text(encoding="utf-8").strip()
        except OSError:
            found = ""
        if found == token:
            return
        if lived() > end:
            raise UserError(
                f"{folder.run}: node {os.uname().nodename} does not see the first node's token there (found "
                f"'{found}', expected '{token}'); the run folder must be on a file system that all nodes share"
            )
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
