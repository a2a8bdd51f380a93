"""What a tracker is told of a run: all of it read from the run folder."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from masksup.base.files import as_json, file_sha256, read_json, read_regular
from masksup.base.json_lines import read_lines
from masksup.config.settings import differing
from masksup.errors import UserError
from masksup.metrics.summary import THRESHOLD_SCORES
from masksup.runtime.metrics_rows import read_rows
from masksup.runtime.run_folder import read_run_config
from masksup.runtime.starts import STARTS

FILES = ("config.yaml", "result.json", "starts.jsonl", "metrics.jsonl", "decisions.json", "report.html")
"""What `--artifacts` sends of what is there."""
_SCORES = ("mAP", "mAUROC", *THRESHOLD_SCORES)
State = Literal["going on", "finished", "cancelled"]


@dataclass(frozen=True, order=True)
class Point:
    """A value of one curve, such as `train/loss`."""

    step: int
    name: str
    value: float


@dataclass(frozen=True)
class TrackedRun:
    """A run folder as of now. `id` is the run's own: it stays where the folder is renamed or moved."""

    folder: Path
    id: str
    settings: dict[str, Any]
    """Those that differ from the defaults, by dotted key."""
    tags: dict[str, str]
    points: tuple[Point, ...]
    """By step; none twice, though a run that went back to an older checkpoint made a step twice."""
    state: State
    began: float | None
    """When its first start was, in seconds since 1970."""
    ended: float | None
    """When its result was written."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def files(self) -> dict[Path, str]:
        """What `--artifacts` sends: the files that are there, each with its sha256."""
        there = (self.folder / name for name in FILES)
        return {file: file_sha256(file) for file in there if file.is_file()}


def read_run(folder: Path) -> TrackedRun | None:
    """The run in `folder`; None before its first start. UserError where it is no run folder."""
    config, starts = read_run_config(folder), read_lines(folder / STARTS)
    rows = read_rows(folder / "metrics.jsonl")
    if not starts and not rows:
        return None
    there = folder / "result.json"
    result = read_json(there, "the scores of a run") if there.exists() else None
    cancelled = (folder / "launch" / "cancelled").exists()  # by the launcher: it is not to be started again
    return TrackedRun(
        folder, _id(folder, starts), differing(config), _tags(starts, result), _points(rows, result),
        "finished" if result is not None else "cancelled" if cancelled else "going on",
        starts[0].get("time") if starts else None, None if result is None else there.stat().st_mtime,
    )  # fmt: skip


def _id(folder: Path, starts: list[dict[str, Any]]) -> str:
    """Of the first start, which no other run has had: time, host and process."""
    first = as_json(starts[0], sort_keys=True).encode() if starts else read_regular(folder / "config.yaml")
    return hashlib.sha256(first).hexdigest()[:16]


def _tags(starts: list[dict[str, Any]], result: dict[str, Any] | None) -> dict[str, str]:
    newest = starts[-1] if starts else {}
    found = {"starts": len(starts), "host": newest.get("host"), "commit": newest.get("commit")}
    if result is not None:
        protocol = (_scores(result) or {}).get("protocol", {})
        names = ("data", "resolution", "ap_rule", "compat", "threshold", "weights", "checkpoint", "index")
        found |= {f"protocol.{name}": protocol.get(name) for name in names}
        found |= {name: result.get(name) for name in ("data", "note", "device", "ranks")}
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def _scores(result: dict[str, Any]) -> dict[str, Any] | None:
    """Those that stand for the run: of the best weights, on the test part where there is one."""
    chosen = result.get("best") or result.get("last")
    if not isinstance(chosen, dict):
        raise UserError("result.json: found neither best nor last in it, expected the scores of a training")
    found: dict[str, Any] | None = chosen.get("test") or chosen.get("eval")
    return found


def _points(rows: Iterable[dict[str, Any]], result: dict[str, Any] | None) -> tuple[Point, ...]:
    values = {(step, name): value for step, name, value in _values(rows)}
    if result is not None:
        scores, step = _scores(result) or {}, int(result["steps"])
        values |= {(step, f"result/{name}"): scores[name] for name in _SCORES if scores.get(name) is not None}
    return tuple(sorted(Point(step, name, value) for (step, name), value in values.items()))


def _values(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[int, str, float]]:
    """The numbers of the rows, under the names that TensorBoard shows them by."""
    for row in rows:
        for name, value in row.items():
            if type(value) in (int, float) and name not in ("step", "epoch") and row["kind"] != "event":
                yield row["step"], f"{row['kind']}/{name}", float(value)
        if row["kind"] in ("train", "eval"):  # a row of the best epoch stands at the last step
            yield row["step"], "epoch", float(row.get("epoch", 0))
