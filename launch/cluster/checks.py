"""What this machine and its cluster must have before a job is submitted."""

import tempfile
from contextlib import suppress
from pathlib import Path

from launch.cluster import slurm
from launch.cluster.gres import gpus_in, read_gpus
from launch.cluster.resources import Resources
from masksup.base.files import to_disk
from masksup.errors import UserError, nearest

# File systems that other nodes do not see, as /proc/mounts calls them.
_NODE_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "ramfs", "overlay", "zfs", "f2fs", "squashfs"}
_FREE_BYTES = 1 << 20


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


def node_local(path: Path) -> str | None:
    """The type of the file system below `path` if other nodes most likely do not see it."""
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, fs, *_ = line.split(" ")
        mount = mount.encode().decode("unicode_escape")
        if len(mount) >= len(best) and (path == Path(mount) or Path(mount) in path.parents):
            best, kind = mount, fs
    return kind if kind in _NODE_LOCAL else None
