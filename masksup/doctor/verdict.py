"""What the numbers mean: which part bounds the speed, and which setting to change; without torch."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from masksup.base.words import counted, figure

if TYPE_CHECKING:
    from masksup.doctor.measure import Found

Bound = Literal["loader", "host", "device"]
_SPARE = 1.2  # a loader that is only as fast as the step makes it wait whenever either is a little slower
_WAITING = 0.05  # share of the time from which waiting for data is worth a remark
_LAUNCHING = 0.9  # share of a GPU's step that its host takes, from which the host is what it waits for


@dataclass(frozen=True)
class Verdict:
    """What bounds the speed, why, and what helps: a setting with its value, and what it does."""

    bound: Bound
    why: str
    change: list[tuple[str, str]]


def verdict(found: "Found") -> Verdict:
    """Judge what was measured."""
    if found.loader < _SPARE * found.step:
        share = f"the loader gives {_rate(found.loader)}, the step takes {_rate(found.step)}"
        return Verdict("loader", share, _for_loader(found))
    room = f"the loader could feed {found.loader / found.step:.1f} times what the step takes"
    if found.device != "cpu" and found.launch_share > _LAUNCHING:
        why = f"handing the work to the GPU takes {found.launch_share:.0%} of a step, so the GPU waits for its host"
        return Verdict("host", why, _HOST)
    return Verdict("device", room, _for_device(found))


_HOST = [
    ("batch.micro=auto", "larger micro-batches: as many launches for more images"),
    ("precision.compile=true", "fewer and larger kernels"),
]


def _for_loader(found: "Found") -> list[tuple[str, str]]:
    image = found.read_ms + found.decode_ms + found.transform_ms
    change = []
    wanted = math.ceil(_SPARE * found.step * image / 1000)  # CPUs that load as fast as the step takes
    most = max(1, found.cpus - 1)
    if found.workers < min(wanted, most):
        change.append(
            (f"data.workers={min(wanted, most)}", f"{counted(found.cpus, 'CPU')} here, and {found.workers} load")
        )
    if found.decode_ms >= max(found.read_ms, found.transform_ms):
        share = found.decode_ms / image
        why = f"decoding is {share:.0%} of an image's time; q90 in place of raw takes less room"
        change.append(("masksup shards INDEX --out DIR --reencode raw", why))
    elif found.read_ms >= found.transform_ms:
        change.append(("masksup shards INDEX --out DIR", f"reading is {found.read_ms / image:.0%} of an image's time"))
    else:
        change.append(("augment.*", f"transforming is {found.transform_ms / image:.0%} of an image's time"))
    if wanted > most:
        change.append((f"--cpus-per-rank {wanted + 1}", "of masksup-launch: so many CPUs would feed the step"))
    return change


def _for_device(found: "Found") -> list[tuple[str, str]]:
    if found.device == "cpu":
        own = found.cpus - (found.workers if found.kind == "processes" else 0)
        more = [(f"precision.threads={found.cpus}", "more threads; other bits")] if found.threads < own else []
        return [*more, ("model.size", "fewer pixels, or a smaller model.backbone: the network takes the time")]
    return [
        ("precision.dtype=bf16", "where it is not yet: matrix products in half the bits"),
        ("precision.compile=true", "fused kernels"),
    ]


def lines(found: "Found", judged: Verdict) -> list[str]:
    """For people."""
    loader = f"{_rate(found.loader)} with {counted(found.workers, _WORKERS[found.kind])}" if found.workers else (
        f"{_rate(found.loader)} in the training thread")  # fmt: skip
    told = [
        f"loader only        {loader}",
        f"  an image takes   {found.read_ms:.1f} ms to read, {found.decode_ms:.1f} to decode, "
        f"{found.transform_ms:.1f} to transform, on one CPU",
        f"step only          {_rate(found.step)} on {found.device}, {counted(found.threads, 'thread')}, "
        f"micro-batches of {found.micro_batch}",
    ]  # fmt: skip
    if found.recorded is not None:
        recorded = found.recorded
        wait = f"{recorded.data_wait_share:.0%} of the time it waited for data"
        told.append(
            f"the run's record   {_rate(recorded.images_per_second)} on {counted(recorded.ranks, 'rank')}; {wait} "
            f"(median of {counted(recorded.lines, 'line')})"
        )
    told.append(f"bound by the {judged.bound}: {judged.why}")
    if found.recorded is not None and judged.bound != "loader" and found.recorded.data_wait_share > _WAITING:
        told.append(
            "the record says otherwise: handing batches over counts as waiting, too, which data.loader=threads spares; "
            "or the machine of the run reads more slowly: ask there"
        )
    return [*told, *(f"  try {setting:24s} # {meaning}" for setting, meaning in judged.change)]


_WORKERS = {"processes": "loader process", "threads": "loader thread"}


def to_json(found: "Found", judged: Verdict) -> dict[str, Any]:
    """The same for programs."""
    change = [{"setting": setting, "why": why} for setting, why in judged.change]
    return {"bound": judged.bound, "why": judged.why, "change": change, "measured": asdict(found)}


def _rate(images: float) -> str:
    return f"{figure(images)} images/s"
