"""Every method and head a compiled step, and no graph that is compiled again in the steps after it."""

import time
from collections.abc import Iterator

import torch
from torch._dynamo.utils import counters

from masksup.engine.precision import set_numerics
from tools.gpu_checks.combinations import Combination, one_of_each
from tools.gpu_checks.results import Row
from tools.gpu_checks.setting import Setting, failure
from tools.step_time import new_stepper, resident_batch

CLASSES = 10
BACKBONE = "test_resnet"  # a compiler takes its time by the layers, which are not what is asked about here


def run(setting: Setting) -> Iterator[Row]:
    combinations = one_of_each(BACKBONE)
    for combination in combinations[:1] if setting.tiny else combinations:
        if combination.title in setting.done:
            continue
        forget_graphs()
        try:
            row = _check(setting, combination)
        except Exception as error:  # the others are to be tried all the same
            row = {"passed": False, "error": failure(error)}
        yield {"what": combination.title, **row}


def _check(setting: Setting, combination: Combination) -> Row:
    compiled = Combination(combination.method, combination.head, combination.backbone, {"compile": True})
    config = compiled.config(setting, setting.dtype, 8)
    set_numerics(config.precision)
    stepper, counts = new_stepper(config, CLASSES, setting.device), []
    began = time.perf_counter()
    for number in range(3):
        logs = stepper.step([resident_batch(config, CLASSES, setting.device, number)], number, 0.3)
        loss = float(logs["loss"])
        counts.append(graphs())
        if number == 0:
            seconds = time.perf_counter() - began
    finite = loss == loss
    return {
        "passed": finite and counts[0] > 0 and counts[0] == counts[-1], "graphs": counts[0],
        "graphs_later": counts[-1] - counts[0], "first_step_s": seconds,
    }  # fmt: skip


def forget_graphs() -> None:
    """Those of an earlier network, which count too."""
    torch.compiler.reset()
    counters.clear()


def graphs() -> int:
    """How many graphs were compiled since they were forgotten."""
    return int(counters["stats"]["unique_graphs"])
