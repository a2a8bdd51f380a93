"""One step after another, each in a process group with a time limit, as far as the time goes."""

import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

from torch import nn

from masksup.errors import UserError
from masksup.exits import STOPPED
from tools.gpu_checks.machine import describe
from tools.gpu_checks.results import ABSENT, FAILED, FINAL, NO_TIME, PASSED, TIMED_OUT, append, ended, read, results
from tools.gpu_checks.setting import Setting
from tools.gpu_checks.steps import Step, steps_for

_LEAST_S = 15.0
"""A step is not begun with less time than its imports take."""
_ROOT = Path(__file__).parents[2]


def check(out: Path, setting: Setting, names: list[str], seconds: float) -> int:
    """Run the steps that `out` does not hold yet. Returns the exit status."""
    end = time.monotonic() + seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with the step that runs
    _begin(out, setting)
    for step in steps_for(setting.ranks):
        if step.name not in names or ended(read(out), step.name) in FINAL:
            continue
        began = time.monotonic()
        how, why = _end_of(out, setting, step, end)
        row = {"step": step.name, "ended": how, "seconds": round(time.monotonic() - began, 1)}
        append(out, row | ({"why": why} if why else {}))
        print(f"{step.name:9s} {how}, {row['seconds']} s{': ' + why if why else ''}", flush=True)
    return _status(out, names)


def run_step(out: Path, name: str, setting: Setting) -> None:
    """In the process of a step: append its rows as they come."""
    (step,) = [step for step in steps_for(setting.ranks) if step.name == name]
    rows = tuple(read(out))
    done = frozenset(what for what, row in results(rows, name).items() if row.get("passed", True))
    if setting.tiny:  # graphs are traced and split alike, but no kernels are made of them
        nn.Module.compile = partialmethod(nn.Module.compile, backend="aot_eager")  # type: ignore[assignment]
    for row in step.function()(replace(setting, rows=rows, done=done)):
        append(out, {"step": name, **row})
        print(row, flush=True)


def _begin(out: Path, setting: Setting) -> None:
    """UserError where there are too few GPUs, or `out` has results of something else."""
    here = describe(setting)
    rows = read(out)
    if not rows:
        append(out, {"step": "machine", **here})
        return
    differ = [key for key, value in here.items() if rows[0].get(key) != value]
    if differ:
        key = differ[0]
        raise UserError(
            f"--out {out}: found results of another {key} ({rows[0].get(key)}), here it is {here[key]}; expected a new "
            "file"
        )


def _end_of(out: Path, setting: Setting, step: Step, end: float) -> tuple[str, str]:
    """Run a step: how it ended, and why."""
    absent = [name for name in step.needs if importlib.util.find_spec(name) is None]
    if absent:
        return ABSENT, f"needs {absent[0]}"
    left = end - time.monotonic()
    if left < _LEAST_S:
        return NO_TIME, ""
    log = out.with_suffix(".logs") / f"{step.name}.log"
    status = _run(out, setting, step, log, min(step.seconds * (10 if setting.tiny else 1), left))
    if status is None:
        return TIMED_OUT, f"see {log}"
    wrong = [what for what, row in results(read(out), step.name).items() if row.get("passed") is False]
    if status or wrong:
        return FAILED, f"{'; '.join(wrong[:3]) or f'exit status {status}'}; see {log}"
    return PASSED, ""


def _run(out: Path, setting: Setting, step: Step, log: Path, seconds: float) -> int | None:
    """The exit status of the process of a step; None: its time was up. Nothing of it is left behind."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = ["--step", step.name, "--out", str(out), "--folder", str(setting.folder), "--ranks", str(setting.ranks)]
    words += ["--tiny"] if setting.tiny else []
    words += ["--data", str(setting.data.absolute())] if setting.data else []
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("a") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.gpu_check", *words], stdout=said, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            family = _family(process.pid)
            for pid in (*family, process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _wait_for_ends(family)


def _family(pid: int) -> list[int]:
    """The children of a process and theirs: torchrun gives its ranks sessions of their own, which no group reaches."""
    try:
        children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []
    return [one for child in children for one in (*_family(child), child)]


def _wait_for_ends(pids: list[int], seconds: float = 10.0) -> None:
    """A process that was killed takes a moment to be gone; longer than `seconds`, it hangs in the kernel."""
    end = time.monotonic() + seconds
    for pid in pids:
        with suppress(ProcessLookupError):
            file = os.pidfd_open(pid)
            select.select([file], [], [], max(0.0, end - time.monotonic()))  # readable once it has ended
            os.close(file)


def _status(out: Path, names: list[str]) -> int:
    ends = {name: ended(read(out), name) for name in names}
    for how in (FAILED, TIMED_OUT, ABSENT, NO_TIME):
        found = [name for name in names if ends[name] == how]
        if found:
            print(f"{how}: {', '.join(found)}")
    if {FAILED, TIMED_OUT} & set(ends.values()):
        return 1
    return STOPPED if NO_TIME in ends.values() else 0
