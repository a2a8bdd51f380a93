"""One run to a cluster: everything is checked before anything is submitted."""

import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import local, sbatch_script, slurm
from launch.cluster.active import look, remember
from launch.cluster.gres import gpus_in, read_gpus
from launch.cluster.resources import Resources
from launch.cluster.safe import refuse_folders
from launch.cluster.snapshot import place_of, snapshot
from launch.start.ledger import Folder, write_json
from launch.start.start import module_for, outlives_nodes
from masksup.base.files import to_disk, write_atomically
from masksup.config.auto import adds_as_tree, with_sum
from masksup.config.conflicts import refuse_ranks, refuse_zero
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.errors import UserError, nearest
from masksup.runtime.run_folder import as_in_folder, refuse_other_config, refuse_other_data

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
    folders = [Folder(run) for run, _ in runs]
    check_resources(resources, cluster)
    check_ranks([run for run, _ in runs], [config for _, config in runs], resources)
    with _nothing_left(home, *(folder.run for folder in folders)), _alone(home):
        check_runs(runs)
        work = work_on(runs, resources, name, home)
        if cluster == "slurm":
            try_out(work, resources)
        snapshot(home)
        for folder, (_, config) in zip(folders, runs):
            prepare_folder(folder, config, resources, cluster, work.code, home)
        jobs = sbatch_script.submit(work, resources) if cluster == "slurm" else local.submit(work)
    remember(dict(zip(jobs, folders)), name)
    return [Submitted(job, folder.run) for folder, job in zip(folders, jobs)]


def work_on(runs: list[tuple[Path, Config]], resources: Resources, name: str, home: Path) -> sbatch_script.Work:
    """What the job of these runs is to do."""
    outlives = outlives_nodes(resources, *(config for _, config in runs))
    module = module_for(runs[0][1])
    return sbatch_script.Work(name, tuple(run for run, _ in runs), place_of(home), home / "submitit", module, outlives)


@contextmanager
def _nothing_left(*folders: Path) -> Iterator[None]:
    """Remove what a submission that fails has made: whole folders that were not there before."""
    new = [folder for folder in folders if not folder.exists()]
    above = [path for folder in new for path in folder.parents if not path.exists()]
    try:
        yield
    except BaseException:
        for folder in new:
            shutil.rmtree(folder, ignore_errors=True)
        for path in sorted(set(above), reverse=True):
            with suppress(OSError):  # somebody else's work is there
                path.rmdir()
        raise


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
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".probe-", dir=folder) as file:
            file.write(bytes(_FREE_BYTES))
            to_disk(file)
    except OSError as error:
        with suppress(OSError):
            for path in new:
                path.rmdir()
        raise UserError(f"{folder}: cannot be written to: {error.strerror}") from None


def check_ranks(runs: Iterable[Path], configs: Iterable[Config], resources: Resources) -> None:
    """UserError for names of folders and numbers of ranks that are known to fail before any job is there."""
    refuse_folders(runs)
    sizes = range(resources.fewest_nodes, resources.most_nodes + 1)
    for config in configs:
        fits = sizes[0] if adds_as_tree(with_sum(config)) else sizes[-1]  # the tree leaves surplus ranks out
        refuse_ranks(config, fits * resources.ranks_on_a_node)
        for nodes in sizes:
            refuse_zero(config, nodes * resources.ranks_on_a_node)


class NoAnswer(UserError):
    """The SLURM of this machine does not answer."""


def refuse_absent() -> None:
    """UserError where there is no SLURM on this machine, NoAnswer where it does not answer."""
    if not slurm.here():
        raise UserError("found no sbatch and srun on this machine, expected a login node of SLURM")
    problem = slurm.try_call("sinfo", "-h", "-o", "%R")
    if problem:
        raise NoAnswer(f"SLURM does not answer here ({problem})")


def check_resources(resources: Resources, cluster: str) -> None:
    """UserError naming what the cluster does not have; NoAnswer where it cannot be asked."""
    if cluster == "local":
        return
    if resources.limit_seconds <= resources.signal_seconds + 60 and resources.limit_seconds > 0:
        raise UserError(
            f"time: found {resources.time}, expected more than signal_seconds ({resources.signal_seconds}) and a "
            "minute, as SLURM's clock is coarse; or lower signal_seconds"
        )
    try:
        refuse_absent()
    except UserError as error:
        raise type(error)(f"{error}; --cluster local runs it on this machine") from None
    known = slurm.partitions()
    for partition in (resources.partition or "").split(","):
        if partition and partition not in known:
            raise UserError(f"partition: found '{partition}'; {nearest(partition, known)}")
    chosen = [known[p] for p in (resources.partition or "").split(",") if p] or list(known.values())
    where = f"partition {resources.partition}" if resources.partition else "any partition"
    wanted = gpus_in(resources.gres or "") or dict([read_gpus(str(resources.gpus_per_node)) or (None, 0)])
    for kind, count in wanted.items():
        most = max((gpus.get(kind, 0) for gpus in chosen), default=count)
        if count > most:
            key = "gres" if resources.gres else "gpus_per_node"
            found = f"{kind}:{count}" if kind else count
            kinds = ", ".join(sorted({str(k) for gpus in chosen for k in gpus if k})) if kind else ""
            raise UserError(f"{key}: found {found}; a node of {where} has at most {most}"
                            + (f" of this type; there are {kinds or 'none'}" if kind else ""))  # fmt: skip


def try_out(work: sbatch_script.Work, resources: Resources) -> None:
    """Let SLURM judge the script without submitting it."""
    work.keep.mkdir(parents=True, exist_ok=True)
    work.keep.chmod(0o700)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix=".try-", suffix=".sh", dir=work.keep) as file:
        file.write(sbatch_script.text(work, resources))
        file.flush()
        try:
            slurm.call("sbatch", "--test-only", file.name)
        except UserError as error:
            said = re.sub(r"^(allocation failure|sbatch): ", "", str(error))
            raise UserError(f"SLURM refuses the job: {said}") from None


def check_runs(runs: Iterable[tuple[Path, Config]]) -> None:
    """UserError where a folder is another configuration's, finished, or in work."""
    found = {Folder(run): config for run, config in runs}
    for folder, config in found.items():
        if folder.config.exists():
            refuse_other_config(folder.run, config)
            refuse_other_data(folder.run, config)
        elif folder.run.is_dir() and any(path.name != "launch" for path in folder.run.iterdir()):
            raise UserError(f"{folder.run}: found a folder that is not a run, expected a run folder or a new name")
        if folder.result.exists():
            raise UserError(f"{folder.run}: this run is finished; its scores are in {folder.result}")
    for folder, seen in look(found).items():
        if seen.active:
            raise UserError(f"{folder.run}: job {seen.job} already works on this run or waits to; cancel it first")


def prepare_folder(folder: Folder, config: Config, resources: Resources, cluster: str, code: Path, home: Path) -> None:
    """Make the run folder with its configuration, or enter it, and note what its job asks for."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.path.chmod(0o700)
    (folder.run / "logs").mkdir(exist_ok=True)
    folder.cancelled.unlink(missing_ok=True)
    # Also over another operation, which the ranks read there.
    write_atomically(folder.config, to_yaml(as_in_folder(folder.run, config)))
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
