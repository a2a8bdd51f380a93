"""What a run cost: its time, its speed, and GPU-hours that counted and that were lost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masksup.base.json_lines import read_lines


@dataclass(frozen=True)
class Cost:
    """`useful`: hours of a GPU (of a process, where there is none) that went into the steps and scores of the result.
    `allocated`: all that the launcher was given for its starts; None where no launcher noted any."""

    seconds: float
    images_per_second: float
    device: str
    ranks: int
    starts: int
    useful: float
    allocated: float | None

    @property
    def lost(self) -> float | None:
        """Starting, work done twice, waiting."""
        return None if self.allocated is None else max(self.allocated - self.useful, 0.0)


def cost_of(run: Path, result: dict[str, Any]) -> Cost:
    """From `result.json` and, of a run of the launcher, `launch/starts.jsonl`; older versions said attempts."""
    ranks = int(result.get("ranks", 1))
    starts: dict[int, dict[str, Any]] = {}
    for row in [line for name in ("attempts", "starts") for line in read_lines(run / "launch" / f"{name}.jsonl")]:
        if isinstance(row.get("number"), int):
            starts.setdefault(row["number"], {}).update(row)
    ended = [row for row in starts.values() if row.get("ended") is not None and "began" in row]
    allocated = sum((row["ended"] - row["began"]) * (row.get("gpus") or 1) for row in ended) / 3600 if ended else None
    return Cost(
        result["seconds"], result["images_per_second"], result["device"], ranks,
        int(result["starts"] if "starts" in result else result["attempts"]),
        result["seconds"] * ranks / 3600, allocated,
    )  # fmt: skip
