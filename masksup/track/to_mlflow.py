"""A run in MLflow: on a server, or in a database or folder of this machine. What was sent, MLflow itself is asked."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from masksup.track.run import State, TrackedRun
from masksup.track.tracker import answering, installed

_ID = "masksup.id"
_HASH = "masksup.sha256."
_MOST_METRICS, _MOST_PARAMS = 1000, 100  # that MLflow takes at once
_LONGEST = 500  # letters of a parameter, for older servers
_STATUS: dict[State, str] = {"going on": "RUNNING", "finished": "FINISHED", "cancelled": "KILLED"}


@dataclass
class _InMlflow:
    """What MLflow has of a run."""

    run_id: str
    experiment_id: str
    status: str = "RUNNING"
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    sent: set[tuple[int, str]] = field(default_factory=set)
    """(step, name) of every point."""


def metric_name(name: str) -> str:
    """`name` as MLflow takes it: what it refuses becomes `_`, with a hash, so that no two classes become one."""
    kind, _, rest = name.partition("/")
    clean = re.sub(r"[^\w\- .]|^\.+$", "_", rest)[:200]
    if clean != rest:
        clean += f"-{hashlib.sha256(rest.encode()).hexdigest()[:6]}"
    return f"{kind}/{clean}" if rest else kind


class ToMlflow:
    """Points and parameters stay as they were sent first: MLflow changes neither."""

    def __init__(self, project: str, uri: str | None) -> None:
        self._mlflow = installed("mlflow")
        uri = uri or self._mlflow.get_tracking_uri()
        if ":" not in uri or uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # who names a folder wants a folder
        self._project, self._uri = project, uri
        self._there: dict[str, _InMlflow] = {}

    @cached_property
    def _client(self) -> Any:
        """Made late, since it makes the folder or database that it is given."""
        return self._mlflow.tracking.MlflowClient(self._uri)

    def where(self, run: TrackedRun) -> str:
        there = self._there[run.id]
        if self._uri.startswith("http"):
            return f"{self._uri.rstrip('/')}/#/experiments/{there.experiment_id}/runs/{there.run_id}"
        return f"mlflow server --backend-store-uri {self._uri} (its pages come with pip install mlflow)"

    def send(self, run: TrackedRun, *, artifacts: bool) -> int:
        """See `Tracker`. After a crash at any point the next call sends what is missing and nothing twice."""
        with answering("mlflow", self._mlflow.exceptions.MlflowException):
            there = self._there[run.id] = self._there.get(run.id) or self._find(run) or self._create(run)
            self._add_params(there, run.settings)
            self._tag(there, run.tags)
            new = [point for point in run.points if (point.step, metric_name(point.name)) not in there.sent]
            now = int(1000 * time.time())
            for part in _parts(new, _MOST_METRICS):
                metrics = [self._mlflow.entities.Metric(metric_name(p.name), p.value, now, p.step) for p in part]
                self._client.log_batch(there.run_id, metrics=metrics)
                there.sent.update((metric.step, metric.key) for metric in metrics)
            if artifacts:
                self._add_files(there, run)
            self._set_status(there, _STATUS[run.state], run.ended)
        return len(new)

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._project)
        return str(found.experiment_id if found else self._client.create_experiment(self._project))

    def _find(self, run: TrackedRun) -> _InMlflow | None:
        """By the id that it has had from its first moment in MLflow, with every point of every curve."""
        experiment = self._experiment()
        runs = self._client.search_runs([experiment], f"tags.`{_ID}` = '{run.id}'", max_results=1)
        if not runs:
            return None
        info, data = runs[0].info, runs[0].data
        # Of all curves, those too that the run folder has lost with its steps since an older checkpoint.
        histories = [self._client.get_metric_history(info.run_id, name) for name in data.metrics]
        sent = {(point.step, point.key) for history in histories for point in history}
        return _InMlflow(info.run_id, experiment, info.status, set(data.params), dict(data.tags), sent)

    def _create(self, run: TrackedRun) -> _InMlflow:
        experiment = self._experiment()
        began = None if run.began is None else int(1000 * run.began)
        made = self._client.create_run(experiment, began, {_ID: run.id}, run_name=run.name)
        return _InMlflow(made.info.run_id, experiment)

    def _add_params(self, there: _InMlflow, settings: dict[str, Any]) -> None:
        new = {key: value for key, value in settings.items() if key not in there.params}
        params = [self._mlflow.entities.Param(key, str(value)[:_LONGEST]) for key, value in new.items()]
        for part in _parts(params, _MOST_PARAMS):
            self._client.log_batch(there.run_id, params=part)
        there.params.update(new)

    def _tag(self, there: _InMlflow, tags: dict[str, str]) -> None:
        new = {key: value for key, value in tags.items() if there.tags.get(key) != value}
        if new:
            entities = [self._mlflow.entities.RunTag(key, value) for key, value in new.items()]
            self._client.log_batch(there.run_id, tags=entities)
            there.tags.update(new)

    def _add_files(self, there: _InMlflow, run: TrackedRun) -> None:
        for file, digest in run.files.items():
            if there.tags.get(_HASH + file.name) != digest:
                self._client.log_artifact(there.run_id, str(file))
                self._tag(there, {_HASH + file.name: digest})

    def _set_status(self, there: _InMlflow, status: str, ended: float | None) -> None:
        if there.status == status:
            return
        if status == "RUNNING":  # cancelled once, and taken up again
            self._client.update_run(there.run_id, status)
        else:
            self._client.set_terminated(there.run_id, status, None if ended is None else int(1000 * ended))
        there.status = status

    def close(self) -> None:
        """Nothing stays open."""


def _parts(rows: list[Any], most: int) -> Iterator[list[Any]]:
    return (rows[start : start + most] for start in range(0, len(rows), most))
