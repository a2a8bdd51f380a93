"""A run in Weights & Biases, offline or online. What was sent is noted beside it, since nobody can be asked offline."""

import os
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

from masksup.base.files import parse_json, read_regular, write_json
from masksup.errors import UserError
from masksup.track.run import Point, TrackedRun
from masksup.track.tracker import answering, installed

_MODES = ("online", "offline")


class ToWandb:
    """A step is sent when it is complete: W&B takes no more of a step that is over."""

    def __init__(self, project: str) -> None:
        self._wandb = installed("wandb")
        self._mode, self._project = os.environ.get("WANDB_MODE", "online"), project
        if self._mode not in _MODES:
            raise UserError(f"WANDB_MODE: found {self._mode}, expected {' or '.join(_MODES)}")
        self._open: dict[str, tuple[TrackedRun, Any]] = {}
        self._step: dict[str, int] = {}

    def where(self, run: TrackedRun) -> str:
        if self._mode == "online":
            return str(self._notes(run).get("url", "W&B"))
        return f"wandb sync {_folder(run)}/offline-run-*-{run.id}"

    def send(self, run: TrackedRun, *, artifacts: bool) -> int:
        """See `Tracker`. What a crash leaves open is dropped, and sent anew by the next call."""
        step = self._step.setdefault(run.id, self._notes(run).get("step", -1))
        new = [point for point in complete(run) if point.step > step]
        files = self._files(run) if artifacts else {}
        if not new and not files:
            return 0
        with answering("wandb", self._wandb.errors.Error):
            opened = self._opened(run)
            # Online the server knows best: another run folder's note may be older.
            new = [point for point in new if point.step >= opened.starting_step]
            for number, points in groupby(new, key=lambda point: point.step):
                opened.log({point.name: point.value for point in points}, step=number)
                self._step[run.id] = number
            opened.config.update({**run.settings, "run": run.tags}, allow_val_change=True)
            if files:
                self._add_files(run, opened, files)
            if run.state != "going on":
                self._finish(run.id)
        return len(new)

    def _opened(self, run: TrackedRun) -> Any:
        """The run in W&B, by its id, which is the same at every call."""
        if run.id in self._open:
            return self._open[run.id][1]
        left = self._notes(run).get("open")  # by a call that was killed: nobody knows how much of it is on the disk
        if left and not list((_folder(run) / left).glob("*.synced")):
            shutil.rmtree(_folder(run) / left, ignore_errors=True)
        settings = self._wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
        )
        opened = self._wandb.init(
            project=self._project, id=run.id, name=run.name, dir=str(_folder(run).parent), mode=self._mode,
            resume="allow", reinit="create_new", config=run.settings, allow_val_change=True, settings=settings,
        )  # fmt: skip
        self._open[run.id] = (run, opened)
        if self._mode == "offline":
            self._note(run, open=Path(opened.dir).parent.name)
        else:  # the server knows what it has
            self._note(run, url=opened.url)
        return opened

    def _files(self, run: TrackedRun) -> dict[Path, str]:
        files = run.files
        return {} if self._notes(run).get("files") == {file.name: digest for file, digest in files.items()} else files

    def _add_files(self, run: TrackedRun, opened: Any, files: dict[Path, str]) -> None:
        artifact = self._wandb.Artifact(f"run-{run.id}", type="run")
        for file in files:
            artifact.add_file(str(file))
        opened.log_artifact(artifact)
        self._finish(run.id, files={file.name: digest for file, digest in files.items()})

    def _finish(self, run_id: str, **notes: Any) -> None:
        if run_id in self._open:
            run, opened = self._open.pop(run_id)
            opened.finish()
            self._note(run, step=self._step[run_id], open=None, **notes)

    def close(self) -> None:
        for run_id in list(self._open):
            self._finish(run_id)

    def _notes(self, run: TrackedRun) -> dict[str, Any]:
        """What was noted of this run in this project and mode."""
        found: dict[str, Any] = _read(_file(run)).get(f"{self._mode}/{self._project}", {})
        return found

    def _note(self, run: TrackedRun, **values: Any) -> None:
        notes = self._notes(run) | values
        write_json(_file(run), _read(_file(run)) | {f"{self._mode}/{self._project}": notes})


def complete(run: TrackedRun) -> list[Point]:
    """The points of all steps, but for the newest of a run that goes on: more of it may come."""
    newest = max((point.step for point in run.points), default=0)
    return [point for point in run.points if point.step < newest or run.state == "finished"]


def _folder(run: TrackedRun) -> Path:
    """Where W&B writes: it makes `wandb` in the folder that it is given."""
    return run.folder / "wandb"


def _file(run: TrackedRun) -> Path:
    return _folder(run) / "masksup.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_regular(file))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(
            f"{file}: cannot be read ({error}); delete it, and {file.parent} with what was not sent"
        ) from None
    return found if isinstance(found, dict) else {}
