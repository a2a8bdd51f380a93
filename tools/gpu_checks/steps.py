"""Which steps there are, in the order of their worth: what comes last is left out where time runs out."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tools.gpu_checks.results import Row


@dataclass(frozen=True)
class Step:
    """seconds: it is killed then. needs: modules without which it is left out. says: what it proves or measures."""

    name: str
    seconds: float
    does: str
    says: str
    needs: tuple[str, ...] = ()

    def function(self) -> Callable[[Any], Iterator[Row]]:
        module, name = self.does.split(":")
        found: Callable[[Any], Iterator[Row]] = getattr(importlib.import_module(f"tools.gpu_checks.{module}"), name)
        return found


ONE = (
    Step("ceilings", 30, "ceilings:run", "what the device can do at best"),
    Step(
        "numbers",
        120,
        "numbers:run",
        "each method, head and kind of backbone: GPU as CPU, repeats bit-equal, no question",
    ),
    Step("folding", 60, "folding:run", "a step as 1 to 4 ranks add it: the bits of one process"),
    Step("speed", 120, "speed:eager", "images/s, share of the peak, memory; channels-last, deterministic, TF32 or not"),
    Step("killed", 80, "killed:run", "runs that are killed end bit-equal"),
    Step("graphs", 100, "graphs:run", "each method and head compiled, nothing compiled again"),
    Step("compiled", 150, "speed:compiled", "the same networks compiled"),
    Step("saving", 30, "saving:saving", "how long a checkpoint stops the training"),
    Step("scoring", 25, "saving:scoring", "evaluation over bare forwards"),
    Step("loading", 60, "loading:run", "the real loader by itself and feeding the step"),
    Step("ddp", 45, "engines:ddp", "the engine ddp: losses, resume, time over a bare loop"),
    Step("zero", 120, "engines:zero", "ZeRO 0 to 3: losses, resume, time over bare DDP, memory", ("deepspeed",)),
    Step("sharing", 100, "sharing:run", "two ranks on one GPU"),
)
SEVERAL = (
    Step("network", 45, "several:network", "GPUs, disk and all-reduce, by the launcher's preflight"),
    Step("killed", 110, "killed:run", "runs that are killed end bit-equal"),
    Step("ddp", 60, "engines:ddp", "the engine ddp: losses of one process, resume, time over a bare loop"),
    Step("scaling", 100, "several:scaling", "the step of all ranks over that of one"),
    Step("zero", 150, "engines:zero", "ZeRO 0 to 3: losses of one process, resume, time, memory", ("deepspeed",)),
)


def steps_for(ranks: int) -> tuple[Step, ...]:
    return ONE if ranks == 1 else SEVERAL
