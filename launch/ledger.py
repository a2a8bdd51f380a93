"""What the launcher keeps of a run, in `RUN/launch/`: its job, its starts, who may write, who left and why.

The run folder is the truth: SLURM forgets jobs, and a requeued job starts with nothing but this folder.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from masksup.base import clock
from masksup.base.files import as_json, parse_json, read_regular, to_disk, write_atomically
from masksup.base.json_lines import read_lines
from masksup.runtime.starts import last_start


@dataclass(frozen=True)
class Token:
    """Names one start of one job. Only its holder writes to the run folder."""

    job: str
    """`1234`, or `1234_5` for element 5 of an array."""
    restart: int

    def __str__(self) -> str:
        return f"{self.job}.{self.restart}"


@dataclass(frozen=True)
class Folder:
    """The launcher's files of a run."""

    run: Path

    @property
    def path(self) -> Path:
        return self.run / "launch"

    @property
    def config(self) -> Path:
        return self.run / "config.yaml"

    @property
    def result(self) -> Path:
        return self.run / "result.json"

    @property
    def job(self) -> Path:
        """How the run was submitted last."""
        return self.path / "job.json"

    @property
    def starts(self) -> Path:
        return self.path / "starts.jsonl"

    @property
    def older_starts(self) -> Path:
        """Where earlier versions kept them."""
        return self.path / "attempts.jsonl"

    @property
    def fence(self) -> Path:
        return self.path / "fence"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat.json"

    @property
    def plain_heartbeat(self) -> Path:
        """That of a training that no launcher started."""
        return self.run / "heartbeat.json"

    @property
    def cancelled(self) -> Path:
        """Exists while the run is not to be started again."""
        return self.path / "cancelled"

    @property
    def recoveries(self) -> Path:
        """One line each time that keepers forked the ranks anew."""
        return self.path / "recoveries.jsonl"

    @property
    def stopped_early(self) -> Path:
        """Why successive halving ended the run, if it did."""
        return self.path / "stopped_early"

    @property
    def closed_by(self) -> str | None:
        """Whose run it is, where we may not look into it; None where we may."""
        try:
            next(self.path.iterdir(), None)
        except PermissionError:
            return owner(self.run)
        except OSError:  # there is none: a run that no launcher has started
            return None
        return None

    @property
    def launcher(self) -> Path:
        """What the launcher writes again and again while ranks run that could do without its node."""
        return self.path / "launcher"

    def launcher_said(self) -> str:
        """Its content, which changes as long as the launcher lives."""
        return read_text(self.launcher)

    def exits(self, start: int, recovery: int = 0) -> Path:
        """The last words of the ranks. Those of before a recovery no longer count, whenever they come."""
        return self.path / "exits" / (f"{start:04d}" + (f"-{recovery}" if recovery else ""))

    def word(self, start: int, recovery: int, rank: int) -> Path:
        return self.exits(start, recovery) / f"rank{rank:05d}.json"

    def srun_said(self, start: int) -> Path:
        """The messages of srun itself; the ranks have logs of their own."""
        return self.path / "exits" / f"{start:04d}.srun"

    def log(self, start: int, rank: str = "%t") -> Path:
        return self.run / "logs" / f"start{start:03d}-rank{rank}.log"


@dataclass
class Start:
    """One start of a run and how it ended. Times are seconds since the epoch."""

    number: int
    job: str
    restart: int
    began: float
    nodes: list[str] = field(default_factory=list)
    gpus: int = 0
    ended: float | None = None
    outcome: str | None = None
    """done, wrong, preempted, timeout, crashed, lost, interrupted, cancelled, hopeless; None while it runs."""
    error: str | None = None
    first_step: int | None = None
    first_step_at: float | None = None
    last_step: int | None = None
    last_step_at: float | None = None
    last_seen: float | None = None
    bad_nodes: list[str] = field(default_factory=list)

    @property
    def token(self) -> str:
        return str(Token(self.job, self.restart))


@dataclass(frozen=True)
class Recovery:
    """The ranks of a start were forked anew. Times are seconds since the epoch."""

    start: int
    recovery: int
    """Numbered from 1 within its start."""
    broke: float
    """When a keeper noticed."""
    agreed: float
    why: str
    step: int | None
    """Of the snapshot in memory; None: from the disk."""
    furthest: int
    """The last step before."""
    ranks: int
    ready: float | None = None
    """When the state was restored; None where it did not come to that."""
    from_step: int | None = None
    """Where it went on."""
    went_on: float | None = None
    """When the first new step was done."""

    @property
    def seconds(self) -> float:
        """From the noticing to the first new step, or as far as it came."""
        return (self.went_on or self.ready or self.agreed) - self.broke

    @property
    def redone(self) -> int:
        """Steps that were done again."""
        return max(self.furthest - self.from_step, 0) if self.from_step is not None else 0


def recoveries(folder: Folder) -> list[Recovery]:
    """All of a run, oldest first. Damaged rows are left out: a number is missing, or larger than any step or time."""
    found: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in read_lines(folder.recoveries):
        fields = {key: value for key, value in row.items() if key in Recovery.__dataclass_fields__}
        known = {key: at for key, at in fields.items() if key == "why" or (isinstance(at, (int, float)) and at < 1e12)}
        found.setdefault((known.get("start"), known.get("recovery")), {"step": None}).update(known)
    needed = {"start", "recovery", "broke", "agreed", "why", "furthest", "ranks"}
    return [Recovery(**row) for row in found.values() if needed <= row.keys()]


def last_recovery(folder: Folder, start: int) -> Recovery | None:
    """The newest of a start."""
    return max((r for r in recoveries(folder) if r.start == start), key=lambda r: r.recovery, default=None)


def owner(path: Path) -> str:
    """Who owns a file, by name where the machine knows one."""
    try:
        return path.owner()
    except (KeyError, OSError):
        return "another user"


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line so that it survives a crash of the machine; one write, so that lines of two writers stay whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = read_regular(path) if path.exists() else b""
    cut_off = before != b"" and not before.endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut_off else "") + as_json(row) + "\n")
        to_disk(file)


def starts(folder: Folder) -> list[Start]:
    """All starts of a run, oldest first."""
    found: dict[int, Start] = {}
    for row in [*read_lines(folder.older_starts), *read_lines(folder.starts)]:
        number = row.get("number")
        if not isinstance(number, int):
            continue
        if number not in found and {"job", "restart", "began"} <= row.keys():
            try:
                found[number] = Start(number, str(row["job"]), int(row["restart"]), float(row["began"]))
            except (TypeError, ValueError):  # damaged; the other starts are still told
                continue
        if number in found:
            for key, value in row.items():
                if key in Start.__dataclass_fields__:
                    setattr(found[number], key, value)
    return [found[number] for number in sorted(found)]


def begin(folder: Folder, token: Token, nodes: list[str], gpus: int, began: float | None = None) -> Start:
    """Note a new start, and close the one before if nobody did. `began`: when its nodes were given to it.

    Its number is the one that the training takes for it (`masksup.runtime.starts`).
    """
    before = starts(folder)
    if before and before[-1].outcome is None:
        end(folder, before[-1], "interrupted", before[-1].last_seen or progress(folder, before[-1]).get("last_seen"))
    number = max([last_start(folder.run), *(start.number for start in before)]) + 1
    start = Start(number, token.job, token.restart, began or clock.now(), nodes, gpus)
    append(folder.starts, asdict(start))
    return start


def end(folder: Folder, start: Start, outcome: str, ended: float | None = None, **more: Any) -> None:
    """Note how a start ended, with what the heartbeat says of its progress."""
    row = {"number": start.number, "outcome": outcome, "ended": ended or clock.now()}
    append(folder.starts, row | progress(folder, start) | more)


def progress(folder: Folder, start: Start) -> dict[str, Any]:
    """Steps and times of a start, from the heartbeat that its rank 0 left."""
    beat = read_json(folder.heartbeat)
    if beat.get("token") != start.token:
        return {}
    keys = {"first_step", "first_step_at", "last_step", "last_step_at"}
    return {key: beat[key] for key in keys & beat.keys()} | {"last_seen": beat.get("seen", beat.get("time"))}


def read_text(path: Path) -> str:
    """What stands in a small file, without white space around it; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small file; empty where there is none, or none that can be read."""
    try:
        value = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, as_json(value, indent=1) + "\n")


def job_of(folder: Folder) -> str | None:
    """The job that the run was given to last, such as 1234 or 1234_5."""
    job = read_json(folder.job).get("job")
    return str(job) if job is not None else None


def score_of(result: dict[str, Any]) -> float | None:
    """The score of a finished run that compares with those of the others: mAP of the best epoch on the evaluation."""
    for kind in ("best", "last"):
        part = result.get(kind, {})
        scores = part.get("eval") or part.get("test") or {}
        if scores.get("mAP") is not None:
            return float(scores["mAP"])
    return None
