"""Each combination computes on the GPU what it computes on the CPU, the same each time, without asking the device."""

import collections
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from masksup.engine.precision import set_numerics
from masksup.engine.step import Stepper
from tools.gpu_checks.combinations import Combination, all_combinations
from tools.gpu_checks.results import Row
from tools.gpu_checks.setting import Setting, digest, failure
from tools.step_time import new_stepper, resident_batch

CLASSES = 10
LOSS, NORM = 1e-4, 1e-3
"""Largest relative differences between GPU and CPU in fp32, without TF32."""


def run(setting: Setting) -> Iterator[Row]:
    combinations = all_combinations()
    for combination in combinations[::9] if setting.tiny else combinations:
        if combination.title in setting.done:
            continue
        try:
            row = _check(setting, combination)
        except Exception as error:  # the others are to be tried all the same
            row = {"passed": False, "error": failure(error)}
        yield {"what": combination.title, **row}


def _check(setting: Setting, combination: Combination) -> Row:
    loss, norm = _off_the_cpu(setting, combination)
    first, _ = _three_steps(setting, combination)
    second, stepper = _three_steps(setting, combination)
    asked = {} if setting.tiny else _questions(setting, combination, stepper)
    passed = loss <= LOSS and norm <= NORM and first == second and not asked
    return {
        "passed": passed, "loss_off": loss, "norm_off": norm, "repeats_bit_equal": first == second,
        "questions": sum(asked.values()), "asked_at": asked,
    }  # fmt: skip


def _off_the_cpu(setting: Setting, combination: Combination) -> tuple[float, float]:
    """Relative differences of loss and gradient norm of the first step, in fp32."""
    config, found = combination.config(setting, "fp32", 4), []
    set_numerics(config.precision)
    for device in (setting.device, torch.device("cpu")):
        stepper = new_stepper(config, CLASSES, device)
        _without_dropout(stepper.engine.method)
        logs = stepper.step([resident_batch(config, CLASSES, device)], 0, 0.3)
        found.append([float(logs[name]) for name in ("loss", "gradient_norm")])
    loss, norm = (abs(a - b) / abs(b) for a, b in zip(*found))
    return loss, norm


def _without_dropout(module: nn.Module) -> None:
    """Its draws differ between devices."""
    for part in module.modules():
        for name in ("p", "drop_prob", "dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def _three_steps(setting: Setting, combination: Combination) -> tuple[str, Stepper]:
    config = combination.config(setting, "bf16", 8)
    set_numerics(config.precision)
    stepper = new_stepper(config, CLASSES, setting.device)
    for number in range(3):
        stepper.step([resident_batch(config, CLASSES, setting.device, number)], number, 0.3)
    return digest(stepper.engine), stepper


def _questions(setting: Setting, combination: Combination, stepper: Stepper) -> dict[str, int]:
    """How often a step made the host wait for the device, by file and line."""
    batch = resident_batch(combination.config(setting, "bf16", 8), CLASSES, setting.device, 9)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            stepper.step([batch], 4, 0.3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = (f"{Path(one.filename).name}:{one.lineno}" for one in seen if "synchroniz" in str(one.message))
    return dict(collections.Counter(places).most_common(4))
