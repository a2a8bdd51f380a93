"""Whether two run folders hold the same run, bit for bit.

    python -m tools.same_run A B

Compares config.yaml, metrics.jsonl, result.json and all state in the newest checkpoint: tensors by the sha256 of their
bytes, everything else key by key. Keys that this program does not know are compared, too. `LEFT_OUT` names the keys
that are not; those that these two folders have are printed. `--step N` compares the runs as they were after step N:
the checkpoint of that step and the rows up to it, without result.json, which is of the end.

Exit status: 0 the same run, 1 another run, 2 a mistake in the input.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masksup.base.files import read_json
from masksup.base.words import counted, printable
from masksup.config.yaml_text import read_yaml
from masksup.errors import JobError, UserError
from masksup.exits import status_of
from masksup.runtime.checkpoint import META, TENSORS, list_checkpoints, read_checkpoint
from masksup.runtime.metrics_rows import read_rows

CONFIG, RECORD, RESULT = "config.yaml", "metrics.jsonl", "result.json"

# Why, in which file, and which keys there, each with all that lies below it; `*` is any one part of a key. Rows of the
# record are `kind.step.name`. Keys of config.yaml are those of the configuration in state.json, too.
LEFT_OUT = (
    ("times and rates", RECORD, (
        "train.*.images_per_second", "train.*.step_seconds", "train.*.data_wait_seconds", "train.*.data_wait_share",
    )),
    ("time", META, ("at.seconds",)),
    ("time and rate", RESULT, ("seconds", "images_per_second")),
    ("memory", RECORD, ("train.*.memory_mib",)),
    ("the ranks, one by one", RECORD, ("ranks", "train.*.data_wait_straggler")),
    ("number of ranks", META, ("ranks",)),
    ("the machine and its libraries", META, ("machine",)),
    ("number of ranks", RESULT, ("ranks",)),
    ("history of the starts", RECORD, ("event",)),
    ("number of the start", META, ("at.changed.*.attempt", "at.changed.*.start")),
    ("number of the start", RESULT, ("attempts", "starts", "changed.*.attempt", "changed.*.start")),
    ("names of checkpoints, which number the start", META, ("name", "at.best.checkpoint")),
    ("names of the folder and of checkpoints, whose sha256 is compared", RESULT, (
        "run", "best.checkpoint", "best_lost.checkpoint", "best_lost.why",
        "last.*.protocol.checkpoint", "last.*.masked.*.protocol.checkpoint",
        "best.*.protocol.checkpoint", "best.*.masked.*.protocol.checkpoint",
    )),
    ("place of the data, whose hashes are compared", CONFIG, ("data.train", "data.eval", "data.test")),
    ("operation, which may change on resume and does not change the run", CONFIG, (
        "data.workers", "data.loader", "data.prefetch", "model.features", "model.features_limit_gb",
        "optim.max_skipped", "parallel.start_seconds", "parallel.first_step_seconds", "parallel.step_seconds",
        "checkpoint.every_minutes", "checkpoint.every_steps", "checkpoint.keep", "checkpoint.snapshot_seconds",
        "log.every_steps", "log.images", "log.picture_minutes", "log.pr_curves", "log.plots",
    )),
)  # fmt: skip
_SHOWN = 20

Key = tuple[str, ...]  # the file, then the parts of the key
Facts = dict[Key, str]  # values as JSON, tensors as type, shape and sha256


_PATTERNS: dict[str, list[Key]] = {file: [] for _, file, _ in LEFT_OUT}
for _, _file, _keys in LEFT_OUT:
    _PATTERNS[_file] += [(_file, *key.split(".")) for key in _keys]


@dataclass(frozen=True)
class Comparison:
    """How two runs compare: a line for each difference, the number of values compared by file, what was left out."""

    differences: list[str]
    compared: dict[str, int]
    left_out: set[Key]
    """The patterns of `LEFT_OUT` that the two have keys for: the file, then the parts."""


def differences(a: Path, b: Path, step: int | None = None) -> list[str]:
    """A line for each key in which two run folders differ; none where they hold the same run. Raises as `compare`."""
    return compare(a, b, step).differences


def compare(a: Path, b: Path, step: int | None = None) -> Comparison:
    """Compare two run folders, or what they were after `step`.

    UserError for a folder that is no run, or has no whole checkpoint; JobError where a disk cannot be read.
    """
    facts_a, facts_b = facts(a, step), facts(b, step)
    patterns = {key: _left_out_by(key) for key in facts_a | facts_b}
    keys = [key for key, pattern in patterns.items() if pattern is None]
    left_out = {pattern for pattern in patterns.values() if pattern is not None}
    return Comparison(list(_unequal(facts_a, facts_b, keys)), dict(Counter(key[0] for key in keys)), left_out)


def facts(run: Path, step: int | None = None) -> Facts:
    """Everything that a run folder holds of its run, by file and key."""
    if not (run / CONFIG).is_file():
        raise UserError(f"{run}: not a run folder: found no {CONFIG} in it")
    found = dict(_flat((CONFIG,), read_yaml(run / CONFIG))) | _rows(run / RECORD, step)
    state = read_checkpoint(checkpoint_of(run, step))
    found |= dict(_flat((META,), state.meta))
    found |= {(TENSORS, name): _digest(value) for name, value in state.tensors.items()}
    if step is None and (run / RESULT).exists():
        found |= dict(_flat((RESULT,), read_json(run / RESULT, "the scores of a run")))
    return found


def checkpoint_of(run: Path, step: int | None) -> Path:
    """The newest checkpoint of a run, or that of `step`, not yet verified. UserError where there is none."""
    saved = list_checkpoints(run / "checkpoints")
    if not saved:
        raise UserError(f"{run}: found no checkpoint in it, expected a run that has saved one")
    steps = {path: int(path.name.split("-")[1]) for path in saved}
    found = [path for path in saved if step in (None, steps[path])]
    if not found:
        known = ", ".join(str(number) for number in sorted(set(steps.values())))
        raise UserError(f"{run}: found no checkpoint of step {step}, expected one of {known}")
    return found[0]


def _flat(key: Key, value: Any) -> Iterator[tuple[Key, str]]:
    """The values of a tree that are no trees themselves, as JSON, which tells 1 from 1.0 and 0.0 from -0.0."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if not inner:
        yield key, json.dumps(value, ensure_ascii=False, default=str)
    for name, below in inner:
        yield from _flat((*key, str(name)), below)


def _rows(file: Path, last: int | None) -> Facts:
    """The rows of a record up to the step `last`.

    A start that goes on from a checkpoint may score that step again. A row that is there twice counts once; where its
    numbers are others, both count.
    """
    if not file.is_file():
        raise UserError(f"{file.parent}: found no {RECORD} in it, expected a run that has begun to train")
    found: Facts = {}
    versions: dict[Key, list[Facts]] = {}
    for row in read_rows(file):
        if last is not None and row["step"] > last:
            continue
        place = (RECORD, row["kind"], str(row["step"]))
        values = dict(_flat(place, {name: value for name, value in row.items() if name not in ("kind", "step")}))
        compared = {key: value for key, value in values.items() if _left_out_by(key) is None}
        known = versions.setdefault(place, [])
        if compared not in known:
            known.append(compared)
        again = known.index(compared)
        found |= {(*place, *([f"again {again}"] if again else []), *key[3:]): value for key, value in values.items()}
    return found


def _digest(tensor: Tensor) -> str:
    sha256 = hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} {sha256}"


def _left_out_by(key: Key) -> Key | None:
    """The pattern of `LEFT_OUT` that means a key, if one does."""
    key = (CONFIG, *key[2:]) if key[:2] == (META, "config") else key
    for pattern in _PATTERNS.get(key[0], []):
        if len(pattern) <= len(key) and all(part in ("*", own) for part, own in zip(pattern, key)):
            return pattern
    return None


def _unequal(a: Facts, b: Facts, keys: Sequence[Key]) -> Iterator[str]:
    """A line for each of `keys` in which the two differ, and one for a whole file that only one of them has."""
    files_a, files_b = ({key[0] for key in run} for run in (a, b))
    yield from (f"{file}: only in {'A' if file in files_a else 'B'}" for file in sorted(files_a ^ files_b))
    for key in keys:
        if key[0] in files_a & files_b and a.get(key) != b.get(key):
            values = [_short(run[key]) if key in run else "nothing" for run in (a, b)]
            yield f"{key[0]} {'.'.join(key[1:])}: {values[0]} | {values[1]}"


def _short(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:45]}...{text[-12:]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print how the runs in two folders compare. The exit status is that of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path, metavar="A", help="the folder of a run")
    parser.add_argument("b", type=Path, metavar="B", help="that of another one")
    parser.add_argument("--step", type=int, metavar="N", help="compare the runs as they were after this step")
    args = parser.parse_args(argv)
    return status_of("same_run", _main, args.a, args.b, args.step)


def _main(a: Path, b: Path, step: int | None) -> int:
    if a.exists() and b.exists() and a.samefile(b):
        raise UserError(f"{b}: found the same folder twice, expected two runs")
    try:
        comparison = compare(a, b, step)
        names = [f"{name}: {run}, {checkpoint_of(run, step).name}" for name, run in (("A", a), ("B", b))]
    except JobError as error:  # its own status, 1, would say that the runs differ
        raise UserError(str(error)) from None
    print("\n".join(printable(line) for line in [*names, *_told(comparison)]))
    return 1 if comparison.differences else 0


def _told(comparison: Comparison) -> Iterator[str]:
    found = comparison.differences
    yield f"different: {counted(len(found), 'difference')} (A | B)" if found else "the same run, bit for bit"
    yield from (f"  {line}" for line in found[:_SHOWN])
    if len(found) > _SHOWN:
        yield f"  and {len(found) - _SHOWN:,} more"
    numbers = (f"{number:,} of {file}" for file, number in comparison.compared.items())
    yield f"compared: {sum(comparison.compared.values()):,} values: {', '.join(numbers)}"
    yield "left out, as they may differ:"
    for reason, file, keys in LEFT_OUT:
        shown = [key for key in keys if (file, *key.split(".")) in comparison.left_out]
        if shown:
            yield f"  {reason}: {file} {', '.join(shown)}"


if __name__ == "__main__":
    sys.exit(main())
