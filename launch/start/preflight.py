"""Is this allocation fit to train on? Every rank looks at its node, all talk to each other, rank 0 names the bad node.

    python -P -m launch.start.preflight FOLDER [INDEX ...]    as a task of srun, one a GPU, or under torchrun, or alone

Seconds, not minutes: it may run at the start of every job.
"""

import json
import os
import re
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch.ledger import write_json
from launch.start.fitness import RankReport, problems, shared_mistake
from masksup.base.files import to_disk
from masksup.base.place import Place, find_place
from masksup.base.words import reason
from masksup.errors import JobError, UserError
from masksup.exits import USER_ERROR

_DISK_MIB, _NETWORK_MIB, _ROUNDS = 32, 16, 5
_MEET_S = 90.0
REPORT = "preflight.json"
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass
class Report:
    """What rank 0 found; `bad` names nodes."""

    cards: list[RankReport]
    bad: dict[str, list[str]] = field(default_factory=dict)


def main(folder: Path, indexes: list[Path]) -> int:
    """Exit status 0 if all is well, 1 with the bad nodes named, 2 for a mistake in the input, whatever the nodes."""
    place = find_place()
    try:
        report = examine(place, folder, indexes)
        if report is None:
            return 0
        mistake = shared_mistake(report.cards)
        if mistake is not None:
            raise UserError(mistake)
    except (JobError, UserError) as error:
        if place.first:
            print(f"masksup-launch: preflight: {error}", file=sys.stderr)
            with suppress(OSError):  # where this is what is wrong
                write_json(folder / REPORT, {"error": str(error), "bad": {}})
        return USER_ERROR if isinstance(error, UserError) else 1
    show(report)
    write_json(folder / REPORT, {"bad": report.bad, "cards": [asdict(card) for card in report.cards]})
    return 1 if report.bad else 0


def examine(place: Place, folder: Path, indexes: list[Path]) -> Report | None:
    """All ranks call this; rank 0 gets the report."""
    card = look_around(place, folder, indexes)
    if place.world == 1:
        return Report([card], problems([card]))
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore

    from masksup.runtime.gpus import choose_backend, rank_card
    from masksup.runtime.rendezvous import meet

    gpu = torch.cuda.is_available()
    backend = choose_backend("auto", gpu)
    store, _ = meet(place, rank_card(place, "preflight", "auto", gpu), _MEET_S)
    dist.init_process_group(backend, store=PrefixStore("preflight", store), rank=place.rank, world_size=place.world)
    control = dist.new_group(backend="gloo")
    assert isinstance(control, dist.ProcessGroup)
    card.gib_per_second = _all_reduce(torch.device("cuda" if gpu else "cpu"), place.world)
    dist.barrier(group=control)
    card.clock = time.time()
    cards: list[Any] = [None] * place.world
    dist.all_gather_object(cards, card, group=control)
    dist.destroy_process_group()
    return Report(cards, problems(cards)) if place.first else None


def look_around(place: Place, folder: Path, indexes: list[Path]) -> RankReport:
    """What one rank sees of its node. The disk is measured by one rank a node."""
    card = RankReport(place.rank, os.uname().nodename, time.time())
    card.asked_gpus = len([x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip()])
    _look_at_gpu(card, place)
    card.nccl = _nccl()
    if place.local_rank == 0:
        card.disk_mib_per_second, card.disk_problem = _disk(folder, place.rank)
        card.free_gib = shutil.disk_usage(folder).free / 2**30 if folder.is_dir() else None
        card.data_problem = _data(indexes)
    return card


def _look_at_gpu(card: RankReport, place: Place) -> None:
    """Driver, number of GPUs and memory in use on the rank's own, as torch sees them: MIG is no special case then.

    The GPUs of other ranks are theirs to look at: a context of every rank on each would fill them.
    """
    import torch

    from masksup.runtime.gpus import gpu_of

    if not _DRIVER.exists():
        return
    found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", _DRIVER.read_text(errors="replace"))
    card.driver = found[1] if found else "unknown"
    try:
        card.gpus = torch.cuda.device_count()
        if card.gpus:
            free, total = torch.cuda.mem_get_info(gpu_of(place, card.gpus, shared=True))
            card.busy_mib = (total - free) / 2**20
    except RuntimeError as error:
        card.gpu_problem = reason(error)


def _nccl() -> str | None:
    import torch

    version: Any = torch.cuda.nccl.version
    return ".".join(map(str, version())) if torch.cuda.is_available() else None


def _disk(folder: Path, rank: int) -> tuple[float | None, str | None]:
    probe = folder / f".preflight-{os.getpid()}-{rank}"
    try:
        began = time.perf_counter()
        with probe.open("wb") as file:
            file.write(os.urandom(1 << 20) * _DISK_MIB)
            to_disk(file)
        return _DISK_MIB / (time.perf_counter() - began), None
    except OSError as error:
        return None, f"{folder}: {error.strerror}"
    finally:
        probe.unlink(missing_ok=True)


def _data(indexes: list[Path]) -> str | None:
    from masksup.data.index import open_index

    for path in indexes:
        try:
            index = open_index(path)
            index.path(0).open("rb").close()
        except (UserError, OSError) as error:
            return " ".join(str(error).split())
    return None


def _all_reduce(device: Any, world: int) -> float:
    """GiB/s that each rank sends in a ring all-reduce of 16 MiB; the first round, which connects, is not counted."""
    import torch
    import torch.distributed as dist

    values = torch.ones(_NETWORK_MIB << 18, device=device)
    began = 0.0
    for number in range(_ROUNDS + 1):
        if number == 1:
            began = time.perf_counter()
        dist.all_reduce(values)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 2 * (world - 1) / world * _ROUNDS * _NETWORK_MIB / 1024 / (time.perf_counter() - began)


def show(report: Report) -> None:
    print("node        rank  gpus  driver      nccl     all-reduce  disk        free")
    for card in report.cards:
        disk = "" if card.disk_mib_per_second is None else f"{card.disk_mib_per_second:.0f} MiB/s"
        free = "" if card.free_gib is None else f"{card.free_gib:.1f} GiB"
        network = "" if card.gib_per_second is None else f"{card.gib_per_second:.2f} GiB/s"
        print(f"{card.host:10}  {card.rank:4d}  {card.gpus:4d}  {card.driver or '-':10}  {card.nccl or '-':7}  "
              f"{network:10}  {disk:10}  {free}")  # fmt: skip
    unseen = sorted({card.host for card in report.cards if card.driver is None and card.asked_gpus})
    if unseen:
        print(f"GPUs that SLURM gave were not looked at: no NVIDIA driver on {', '.join(unseen)}")
    for node, found in sorted(report.bad.items()):
        for text in found:
            print(f"BAD {node}: {text}")
    print(f"preflight: {'not fit: ' + ', '.join(sorted(report.bad)) if report.bad else 'fit'}", flush=True)


def read_bad(folder: Path) -> tuple[list[str], str]:
    """The bad nodes of the report in `folder`, and a line that says what is wrong."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [], "preflight left no report"
    lines = [f"{node}: {'; '.join(found)}" for node, found in sorted(report["bad"].items())]
    return sorted(report["bad"]), "preflight: " + (" | ".join(lines) or str(report.get("error")))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]))
