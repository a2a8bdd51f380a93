"""The run folder: the truth about a run. One configuration, one process at a time, many starts."""

import errno
import fcntl
import os
import platform
import secrets
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from masksup.base.commit import commit_of_code
from masksup.base.files import refuse_unwritable, write_atomically
from masksup.base.json_lines import read_lines
from masksup.base.lived import lived
from masksup.base.log import log
from masksup.config.auto import following, read_recorded
from masksup.config.load import differences, to_yaml
from masksup.config.on_resume import changed, told
from masksup.config.schema import Config, OnResume
from masksup.errors import UserError
from masksup.runtime import fence
from masksup.runtime.starts import STARTS, new_start

_LOCK_S = 15


@dataclass
class RunFolder:
    """An opened run folder. The lock is held as long as this object (or its process) lives."""

    path: Path
    start: int
    lock: IO[str] | None
    handle: int | None = None
    """Of the folder itself, whatever its name becomes."""

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def unfinished(self) -> Path:
        """Where evaluations of the run that were cut off keep what they have done."""
        return self.path / "unfinished"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def refuse_replaced(self) -> None:
        """UserError if the folder of that name is not the one that was opened; leaves if another process took it over.

        Removed or renamed, it must not rise again half empty, and what stands in its place belongs to another run.
        """
        fence.check()
        assert self.handle is not None, "only rank 0 writes"
        try:
            there = self.path.stat()
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(there, os.fstat(self.handle)):
            raise UserError(
                f"{self.path}: was removed or renamed while this run was training in it, so nothing can be saved "
                "there; give it its name back and run the same command again"
            )


def join_run(path: Path, start: int) -> RunFolder:
    """The run folder as another rank uses it that rank 0 has opened: it writes nothing but its own log.

    UserError where this rank does not see it.
    """
    if not (path / "logs").is_dir():
        raise UserError(
            f"{path}: rank 0 has opened this run folder, and node {platform.node()} does not see it; the ranks must be "
            "given the same --run-dir on a file system that all nodes share"
        )
    return RunFolder(path, start, None)


def open_run(path: Path, config: Config, indexes: Mapping[str, str] | None = None) -> RunFolder:
    """Create the run folder, or enter an existing one to go on with the same run, operated otherwise or not.

    indexes: the hash of the index of each part (train, eval, test). `config.yaml` holds the settings of the newest
    start, so that it names where the data is now; `starts.jsonl` holds what each start was operated with.
    UserError if another process works in it, if it holds another run (the difference is shown), or if it is some other
    folder.
    """
    config_file = path / "config.yaml"
    refuse_foreign(path)
    refuse_unwritable(path, create=True)
    if (path / "checkpoints").is_dir():
        refuse_unwritable(path / "checkpoints")
    lock = _lock(path)
    if config_file.exists():
        refuse_other_config(path, config)
        refuse_other_data(path, config, indexes)
    if not config_file.exists() or differences(read_run_config(path), config):
        write_atomically(config_file, to_yaml(config))
    (path / "logs").mkdir(exist_ok=True)
    facts = {"indexes": dict(indexes or {}), "settings": told(config), "commit": commit_of_code()}
    start = new_start(path, facts)
    return RunFolder(path, start, lock, os.open(path, os.O_RDONLY | os.O_DIRECTORY))


def refuse_foreign(path: Path) -> None:
    """UserError where `path` holds something that is not a run."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: found a file, expected a run folder or a new name")
    ours = (path / "config.yaml").exists() or (path / ".lock").exists()
    if path.is_dir() and any(path.iterdir()) and not ours:
        raise UserError(f"{path}: found a folder that is not a run, expected a run folder or a new name")


def refuse_taken(path: Path) -> None:
    """UserError if another process works in this run folder now. For before torch is loaded; `open_run` makes sure."""
    if fence.is_set() or not (path / ".lock").is_file():
        return
    with (path / ".lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(path, lock) from None
        except OSError:
            return  # no locks on this file system, of which `open_run` tells


def _taken(path: Path, lock: IO[str]) -> UserError:
    lock.seek(0)
    holder = lock.read().strip() or "it has not said which"
    return UserError(f"{path}: another process is training in this run folder ({holder})")


def finished(path: Path, config: Config) -> bool:
    """Whether the run in `path` has its result. UserError if it is another configuration's."""
    if not (path / "result.json").exists() or not (path / "config.yaml").exists():
        return False
    refuse_other_config(path, config)
    refuse_other_data(path, config)
    return True


def read_run_config(path: Path) -> Config:
    """The configuration of a run folder."""
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path}: not a run folder: found no config.yaml in it")
    return read_recorded(path / "config.yaml")


def as_in_folder(path: Path, config: Config) -> Config:
    """`config` with what the run in `path` has chosen wherever it says `auto`; itself where there is no run yet."""
    return following(config, read_run_config(path)) if (path / "config.yaml").is_file() else config


def refuse_other_config(path: Path, config: Config) -> None:
    """UserError if `path` holds another run, with the difference; another operation of the same run is none."""
    recorded = read_run_config(path)
    # A folder that was submitted and has not started may say `auto`, too.
    refused = changed(following(recorded, config), following(config, recorded), OnResume.REFUSED)
    if refused:
        lines = [f"{key}: {values}" for key, values in refused.items()]
        shown = "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")
        raise UserError(
            f"{path}: this run folder has another configuration ({shown}); use another --run-dir"
            + (f"; {_longer(path, recorded, config)}" if config.epochs > recorded.epochs else "")
        )


def _longer(path: Path, recorded: Config, config: Config) -> str:
    """How to go on with the weights of a run whose epochs are over, to be copied."""
    more = f"{config.epochs - recorded.epochs:g}"
    rate = "keeps the learning rate" if config.schedule.name == "constant" else "starts the schedule anew"
    words = shlex.join([f"epochs={more}", f"model.weights={path}", "--run-dir", f"{path}-longer"])
    epochs = f"{more} epoch{'' if more == '1' else 's'} more"
    return f"to train {epochs}, begin another run with its weights, which {rate}: {words}"


def refuse_other_data(path: Path, config: Config, indexes: Mapping[str, str] | None = None) -> None:
    """UserError if parts lie elsewhere now and are not known to be what they were.

    indexes: the hash of the index of each part; None: they are read.
    """
    moved = changed(read_run_config(path), config, OnResume.SAME_INDEX)
    before = _indexes_before(path) if moved else None  # None, too, where nothing was trained yet
    if before is not None and before != (_indexes_now(config) if indexes is None else indexes):
        shown = "; ".join(f"{key}: {values}" for key, values in moved.items())
        raise UserError(
            f"{path}: this run folder has other data ({shown}); expected an index of the same hash, or another "
            "--run-dir"
        )


def _indexes_now(config: Config) -> dict[str, str]:
    from masksup.data.index import read_header  # the launcher starts without numpy

    parts = {"train": config.data.train, "eval": config.data.eval, "test": config.data.test}
    return {name: read_header(Path(part))["hash"] for name, part in parts.items() if part is not None}


def _indexes_before(path: Path) -> Any:
    """The hashes of the run's indexes: noted by its newest start, or, in folders of older versions, a checkpoint."""
    from masksup.runtime.checkpoint import newest_valid  # needs torch; the launcher does without it

    starts = path / STARTS
    noted = [row["indexes"] for row in read_lines(starts) if row.get("indexes")]
    if noted:
        return noted[-1]
    saved, _ = newest_valid(path / "checkpoints")
    return saved.meta.get("hashes") if saved else None


def _lock(path: Path) -> IO[str]:
    lock = (path / ".lock").open("a+", encoding="utf-8")
    # Where a launcher fences the folder, who holds the lock has lost it and leaves, or stands still on a machine that
    # was cut off: then its lock means nothing, and the fence keeps it from writing.
    patience = lived() + (_LOCK_S if fence.is_set() else 0)
    while not _locked(lock, path):
        if lived() < patience:
            time.sleep(0.2)
        elif fence.is_set():
            break
        else:
            raise _taken(path, lock)
    lock.truncate(0)
    lock.write(f"pid {os.getpid()} on {platform.node()}")
    lock.flush()
    return lock


def _locked(lock: IO[str], path: Path) -> bool:
    """Whether this process holds the run folder now; False if another one does."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if not fence.is_set():
            _fence(path, error)
    return True


def _fence(path: Path, error: OSError) -> None:
    """What stands in for a lock: the process that starts last has the folder, and one that is still in it leaves."""
    log.warning(
        f"{path}: its file system has no locks ({error.strerror}), so nothing keeps you from starting this run twice; "
        "a process that is still training here leaves before it saves the next time"
    )
    token = f"pid {os.getpid()} on {platform.node()}, start {secrets.token_hex(4)}"
    write_atomically(path / ".holder", token)
    fence.hold(path / ".holder", token)
