"""Where a rank is: its number, its peers, the port they meet at, and the GPU that SLURM gave it."""

import socket
import zlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from masksup.errors import UserError

# Below the range from which Linux hands out ports by itself (32768 up), so that no passing connection takes one.
_FIRST_PORT, _PORTS = 12_000, 18_000


@dataclass(frozen=True)
class Place:
    """A rank's place, in the terms of torchrun."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    node: int
    device: int
    """Which of the GPUs that this process can see is its own; 0 where it sees none."""

    def environment(self) -> dict[str, str]:
        """What torchrun would set. `LOCAL_RANK` is the device, which is what it is used for."""
        return {
            "RANK": str(self.rank), "WORLD_SIZE": str(self.world), "LOCAL_RANK": str(self.device),
            "LOCAL_WORLD_SIZE": str(self.local_world), "GROUP_RANK": str(self.node),
        }  # fmt: skip


def slurm_place(environment: Mapping[str, str]) -> Place:
    """The place of a task of srun. UserError naming the variable where this is not one."""

    def number(name: str) -> int:
        try:
            return int(environment[name])
        except (KeyError, ValueError):
            found = environment.get(name)
            raise UserError(f"{name}: found {found!r}, expected a number; start ranks by srun") from None

    rank, world, local = number("SLURM_PROCID"), number("SLURM_NTASKS"), number("SLURM_LOCALID")
    local_world = _tasks_on_this_node(environment, number("SLURM_NODEID"))
    return Place(rank, world, local, local_world, number("SLURM_NODEID"), device_index(environment, local, local_world))


def _tasks_on_this_node(environment: Mapping[str, str], node: int) -> int:
    """From SLURM_STEP_TASKS_PER_NODE, such as `2(x3),1`."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or "1"
    counts: list[int] = []
    for part in text.split(","):
        tasks, _, times = part.partition("(x")
        counts += [int(tasks)] * int(times.rstrip(")") or 1)
    return counts[min(node, len(counts) - 1)]


def device_index(environment: Mapping[str, str], local_rank: int, local_world: int) -> int:
    """Index, among the visible GPUs, of this rank's own.

    SLURM gives a node's tasks either all the job's GPUs there (`CUDA_VISIBLE_DEVICES=1,3`: the second task takes the
    second of them) or one each (`=3`: index 0 whatever the rank). The list is never changed: its numbers are not
    0..k-1 where the node is shared.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES") or environment.get("ROCR_VISIBLE_DEVICES")
    if not visible or visible == "NoDevFiles":
        return 0
    devices = [device for device in visible.split(",") if device.strip()]
    if len(devices) == 1:
        return 0
    if len(devices) < local_world:
        raise UserError(
            f"CUDA_VISIBLE_DEVICES: found {visible} for {local_world} ranks on this node, expected one GPU a rank"
        )
    return local_rank


def port_candidates(job: str, restart: int, count: int = 20) -> list[int]:
    """Ports for the ranks of one start to meet at: the same on every node, others for other jobs and restarts."""
    start = zlib.crc32(f"{job}.{restart}".encode())
    return [_FIRST_PORT + (start + 7919 * k) % _PORTS for k in range(count)]


def free_port(job: str, restart: int) -> int:
    """The first candidate that nobody listens on here, the first node, where rank 0 will."""
    for port in port_candidates(job, restart):
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
                return port
            except OSError:
                continue
    raise UserError(f"no free port among {port_candidates(job, restart)} on {socket.gethostname()}")
