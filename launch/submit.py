"""One run to a cluster: everything is checked before anything is submitted."""

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launch import local, script, slurm
from launch.ledger import Folder, job_of, read_json, write_json
from launch.resources import Resources
from launch.snapshot import snapshot
from masksup.config import Config
from masksup.config_file import to_yaml
from masksup.errors import UserError, nearest
from masksup.runtime.files import write_atomically
from masksup.runtime.run_folder import refuse_other_config

# File systems that other nodes do not see, as /proc/mounts calls them.
_NODE_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "ramfs", "overlay", "zfs", "f2fs", "squashfs"}
_FREE_BYTES = 1 << 20


@dataclass(frozen=True)
class Submitted:
    job: str
    run: Path


def submit(
    runs: list[tuple[Path, Config]], resources: Resources, cluster: str, name: str, home: Path
) -> list[Submitted]:
    """Submit runs that are neither active nor finished: one job, or one array. `home` keeps code and scripts."""
    check_resources(resources, cluster)
    with _alone(home):
        for run, config in runs:
            check_run(Folder(run), config)
        code = snapshot(home)
        work = script.Work(name, tuple(run for run, _ in runs), code, home / "submitit")
        if cluster == "slurm":
            try_out(work, resources)
        for run, config in runs:
            prepare(Folder(run), config, resources, cluster, code, home)
        jobs = script.submit(work, resources) if cluster == "slurm" else local.submit(work)
        for (run, _), job in zip(runs, jobs):
            file = Folder(run).job
            write_json(file, read_json(file) | {"job": job, "submitted": time.time()})
    return [Submitted(job, run) for (run, _), job in zip(runs, jobs)]


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One submission at a time: two of the same run would both find it free."""
    refuse_full(home)
    with (home / ".submitting").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{home}: another masksup-launch is submitting there right now") from None
        yield


def refuse_full(folder: Path) -> None:
    """UserError unless a small file can be written and kept in `folder`, which is made, but not left where it can't."""
    probe = folder / f".probe-{os.getpid()}"
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(bytes(_FREE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _remove(probe, *new)
        raise UserError(f"{folder}: cannot be written to: {error.strerror}") from None
    probe.unlink()


def _remove(probe: Path, *folders: Path) -> None:
    with suppress(OSError):
        probe.unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()


def check_resources(resources: Resources, cluster: str) -> None:
    """UserError naming what the cluster does not have."""
    if cluster == "local":
        return
    if not slurm.here():
        raise UserError("found no sbatch and srun on this machine, expected a login node of SLURM; or --cluster local")
    known = slurm.partitions()
    for partition in (resources.partition or "").split(","):
        if partition and partition not in known:
            raise UserError(f"partition: found '{partition}'; {nearest(partition, known)}")
    chosen = [known[p] for p in (resources.partition or "").split(",") if p] or list(known.values())
    if chosen and resources.gpus_per_node > max(chosen):
        where = f"partition {resources.partition}" if resources.partition else "any partition"
        raise UserError(f"gpus_per_node: found {resources.gpus_per_node}; a node of {where} has at most {max(chosen)}")
    if resources.limit_seconds <= resources.signal_seconds + 60 and resources.limit_seconds > 0:
        raise UserError(
            f"time: found {resources.time}, expected more than signal_seconds ({resources.signal_seconds}) and a "
            "minute, as SLURM's clock is coarse; or lower signal_seconds"
        )


def try_out(work: script.Work, resources: Resources) -> None:
    """Let SLURM judge the script without submitting it."""
    work.keep.mkdir(parents=True, exist_ok=True)
    work.keep.chmod(0o700)
    file = work.keep / f".try-{os.getpid()}.sh"
    try:
        file.write_text(script.text(work, resources), encoding="utf-8")
        slurm.call("sbatch", "--test-only", str(file))
    except UserError as error:
        said = re.sub(r"^(allocation failure|sbatch): ", "", str(error))
        raise UserError(f"SLURM refuses the job: {said}") from None
    finally:
        file.unlink(missing_ok=True)


def check_run(folder: Folder, config: Config) -> None:
    """UserError where the folder is another configuration's, finished, or in work."""
    if folder.config.exists():
        refuse_other_config(folder.run, config)
    elif folder.run.is_dir() and any(path.name != "launch" for path in folder.run.iterdir()):
        raise UserError(f"{folder.run}: found a folder that is not a run, expected a run folder or a new name")
    if folder.result.exists():
        raise UserError(f"{folder.run}: this run is finished; its scores are in {folder.result}")
    job = job_of(folder)
    if job is not None and is_active(folder, job):
        raise UserError(f"{folder.run}: job {job} already works on this run or waits to; cancel it first")


def is_active(folder: Folder, job: str) -> bool:
    """Whether the job of a run runs, waits or comes back."""
    if read_json(folder.job).get("cluster") == "local":
        return not folder.result.exists() and (local.alive(job) or bool(local.ranks(folder)))
    found = slurm.queue([job]).get(job)
    return found is not None and found.active


def prepare(folder: Folder, config: Config, resources: Resources, cluster: str, code: Path, home: Path) -> None:
    """Make the run folder with its configuration, or enter it, and note what its job asks for."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.path.chmod(0o700)
    (folder.run / "logs").mkdir(exist_ok=True)
    folder.cancelled.unlink(missing_ok=True)
    write_atomically(folder.config, to_yaml(config))  # also over another `parallel`, which the ranks read there
    row = {"job": None, "cluster": cluster, "code": str(code), "home": str(home), "resources": resources.model_dump()}
    write_json(folder.job, row)


def node_local(path: Path) -> str | None:
    """The type of the file system below `path` if other nodes most likely do not see it."""
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, fs, *_ = line.split(" ")
        mount = mount.encode().decode("unicode_escape")
        if len(mount) >= len(best) and (path == Path(mount) or Path(mount) in path.parents):
            best, kind = mount, fs
    return kind if kind in _NODE_LOCAL else None


def missing_data(config: Config) -> Iterable[Path]:
    """Indexes of a configuration that this machine does not see."""
    for value in (config.data.train, config.data.eval, config.data.test):
        if value is not None and not Path(value).is_dir():
            yield Path(value)
