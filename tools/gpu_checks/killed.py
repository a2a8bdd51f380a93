"""A run that is killed twice ends bit-equal to one that is not: a network of convolutions and one of attention."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from masksup.runtime.checkpoint import list_checkpoints
from tools.gpu_checks import runs
from tools.gpu_checks.results import Row
from tools.gpu_checks.setting import Setting

_KILLED_AT = (1, 3)  # checkpoints that stand when the run is killed


def run(setting: Setting) -> Iterator[Row]:
    data = runs.synthetic_data(setting, 64 if setting.tiny else 256, 64)
    vit = {"model": {"backbone": "vit_tiny_patch16_224", "size": 64, "head": {"name": "csra", "heads": 4}}}
    kinds = {"ResNet": {}} if setting.tiny else {"ResNet": {}, "ViT": vit}
    todo = {
        what: runs.write_config(setting, what, data, **keys) for what, keys in kinds.items() if what not in setting.done
    }
    with ThreadPoolExecutor() as side_by_side:
        for what, row in zip(todo, side_by_side.map(partial(_check, setting), todo.values())):
            yield {"what": what, **row}


def _check(setting: Setting, config: Path) -> Row:
    clean, cut = (config.with_name(f"{config.stem}-{kind}") for kind in ("clean", "cut"))
    with (config.with_suffix(".log")).open("w") as log:
        undisturbed = runs.start(config, clean, log, setting.ranks)
        for least in _KILLED_AT:
            process = runs.start(config, cut, log, setting.ranks)
            runs.wait_for_checkpoints(process, cut, least, 60)
            runs.kill(process)
        last = runs.start(config, cut, log, setting.ranks)
        codes = [process.wait() for process in (undisturbed, last)]
    if any(codes):
        return {"passed": False, "error": f"exit statuses {codes}: {runs.last_line(config.with_suffix('.log'))}"}
    start = int(list_checkpoints(cut / "checkpoints")[0].name.rpartition("-a")[2])
    tensors, apart = runs.unequal(clean, cut)
    return {
        "passed": tensors > 0 and not apart and start > 1, "starts": start, "steps": len(runs.losses(clean)),
        "tensors": tensors, "unequal": len(apart), "first": sorted(apart)[:2],
    }  # fmt: skip
