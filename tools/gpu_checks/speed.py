"""Training steps of the networks that matter: images/s, share of the measured peak, memory, by what is switched."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from masksup.config.schema import Config
from masksup.engine.precision import set_numerics
from masksup.engine.step import Stepper
from tools.gpu_checks import ceilings
from tools.gpu_checks.graphs import forget_graphs, graphs
from tools.gpu_checks.results import Row, results
from tools.gpu_checks.setting import CLASSES, Setting, configure, failure, now
from tools.step_time import new_stepper, resident_batch

# name: (backbone, its small stand-in, size, head, batch)
NETWORKS = {
    "ViT-L/16 + CSRA @ 224": ("vit_large_patch16_224", "test_vit", 224, "csra", 64),
    "ResNet-101 + CSRA @ 448": ("resnet101", "test_resnet", 448, "csra", 64),
    "TResNet-M @ 448": ("tresnet_m", "test_resnet", 448, "linear", 64),
}
VIT, RESNET, TRESNET = NETWORKS
MOST_OF_MASKSUP = 2.1
"""Plain steps that a MaskSup step may take: it makes two forwards and backwards."""


@dataclass(frozen=True)
class Variant:
    """A way to train: what is changed against the defaults. `network` None: each of them."""

    title: str
    network: str | None = None
    method: dict[str, Any] = field(default_factory=lambda: {"name": "baseline"})
    precision: dict[str, Any] = field(default_factory=dict)
    head: str | None = None
    compiled: bool = False


PLAIN = "as it comes"
VARIANTS = (
    Variant(PLAIN),
    Variant("not deterministic", precision={"deterministic": False}),
    Variant("MaskSup", method={"name": "masksup", "bank": 50}),
    Variant("not channels-last", precision={"channels_last": False}),
    Variant("MCAR", RESNET, {"name": "mcar", "top": 4}, head="linear"),
    Variant("fp32", RESNET, precision={"dtype": "fp32"}),
    Variant("fp32 with TF32", RESNET, precision={"dtype": "fp32", "tf32": True}),
    Variant("compiled", precision={"compile": True}, compiled=True),
    Variant("compiled, not deterministic", RESNET, precision={"compile": True, "deterministic": False}, compiled=True),
)


def cells() -> list[tuple[str, Variant]]:
    """Each network with each variant that is meant for it, plain ones first."""
    return [(n, v) for v in VARIANTS for n in NETWORKS if v.network in (None, n)]


def title(network: str, variant: Variant) -> str:
    return f"{network}, {variant.title}"


def eager(setting: Setting) -> Iterator[Row]:
    yield from _measure(setting, compiled=False)


def compiled(setting: Setting) -> Iterator[Row]:
    yield from _measure(setting, compiled=True)


def configured(setting: Setting, network: str, variant: Variant, batch: int | None = None) -> Config:
    """The configuration of a cell, or its stand-in in small."""
    backbone, small, size, head, usual = NETWORKS[network]
    backbone, size, usual = (small, 64, 4) if setting.tiny else (backbone, size, usual)
    return configure(
        setting, backbone, size, batch or usual, model={"head": {"name": variant.head or head}}, method=variant.method,
        precision=variant.precision,
    )  # fmt: skip


def _measure(setting: Setting, compiled: bool) -> Iterator[Row]:
    plain = {**results(setting.rows, "speed")}
    for network, variant in cells():
        what = title(network, variant)
        if variant.compiled != compiled or what in setting.done:
            continue
        if setting.tiny and (network == TRESNET or variant.title not in (PLAIN, "MaskSup", "MCAR", "compiled")):
            continue
        try:
            row = _cell(setting, network, variant)
        except Exception as error:  # such as too little memory: the others are measured all the same
            row = {"passed": False, "error": failure(error)}
        of_plain = plain.get(title(network, VARIANTS[0]))
        if of_plain is not None and "step_s" in row and "step_s" in of_plain:
            row["over_plain"] = row["step_s"] / of_plain["step_s"]
            if variant.title == "MaskSup" and not setting.tiny:
                row["passed"] = row["over_plain"] <= MOST_OF_MASKSUP
        plain[what] = row
        yield {"what": what, **row}
        _forget()


def _cell(setting: Setting, network: str, variant: Variant) -> Row:
    config = configured(setting, network, variant)
    forget_graphs()
    torch.use_deterministic_algorithms(False)  # what the cell before this one had
    set_numerics(config.precision)
    stepper = new_stepper(config, CLASSES, setting.device)
    began = now()
    flops = None if variant.compiled else _flops(stepper, config)
    seconds, row = _steps(setting, stepper, config)
    row["first_steps_s"] = now() - began - sum(seconds)
    step = statistics.median(seconds)
    row |= {"step_s": step, "images_s": config.batch.global_ / step}
    peak = results(setting.rows, "ceilings").get(ceilings.BF16, {}).get("tflops")
    if flops is not None and peak and config.precision.dtype == setting.dtype:
        row |= {"tflops": flops / step / 1e12, "share_of_peak": flops / step / 1e12 / peak}
    if variant.compiled:
        row["passed"] = row["graphs"] > 0 and row["graphs_later"] == 0
    return row


def _flops(stepper: Stepper, config: Config) -> float:
    """Of one step, forward and backward."""
    with FlopCounterMode(display=False) as counted:
        stepper.step([resident_batch(config, CLASSES, stepper.device)], 0, 0.0)
    return float(counted.get_total_flops())


def _steps(setting: Setting, stepper: Stepper, config: Config) -> tuple[list[float], Row]:
    """Seconds of each step after two that are not counted; the most memory, and the graphs that were compiled."""
    batch = resident_batch(config, CLASSES, stepper.device)
    for number in range(2):
        stepper.step([batch], number, 0.0)
    if not setting.tiny:
        torch.cuda.reset_peak_memory_stats()
    seconds, early = [], graphs()
    for number in range(3 if setting.tiny else 12):
        began = now()
        stepper.step([batch], number + 2, 0.0)
        seconds.append(now() - began)
    memory = None if setting.tiny else torch.cuda.max_memory_allocated() / 2**30
    return seconds, {"memory_gib": memory, "graphs": early, "graphs_later": graphs() - early}


def _forget() -> None:
    """Give the memory of the last network back, so that the next one's is its own."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
