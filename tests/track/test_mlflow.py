"""Runs in a real MLflow server, and in a database: each point arrives once, whatever happened in between."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from masksup.cli import main
from masksup.errors import JobError
from masksup.runtime.metrics_log import Record
from masksup.runtime.metrics_rows import read_rows
from masksup.track import to_mlflow
from masksup.track.follow import track
from masksup.track.open import open_tracker
from masksup.track.run import read_run
from masksup.track.to_mlflow import ToMlflow, metric_name

Growing = tuple[Path, Callable[[], None]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """An MLflow server that keeps its runs in files, which takes the same point twice where a database would not."""
    pytest.importorskip("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "_MLFLOW_SERVER_FILE_STORE": str(tmp_path / "store"),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/", "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(tmp_path / "artifacts"),
    }  # fmt: skip
    command = [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app", "--port", str(port)]
    # What `mlflow server` starts, without its own start, which takes twice as long.
    log = (tmp_path / "server.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    uri = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=2):
            break
        time.sleep(0.1)
    else:
        process.kill()
        pytest.fail((tmp_path / "server.log").read_text())
    yield uri, process
    process.kill()
    process.wait()


def curves(client: Any, experiment: str) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    """The only run of an experiment, with every point of its curves."""
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return run, {name: sorted((p.step, p.value) for p in history) for name, history in histories.items()}


def expected(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of the record and the result."""
    found: dict[str, list[tuple[int, float]]] = {}
    run = read_run(folder)
    assert run is not None
    for point in run.points:
        found.setdefault(metric_name(point.name), []).append((point.step, pytest.approx(point.value)))
    return found


def test_a_real_server_has_each_point_once(
    server: tuple[str, "subprocess.Popen[bytes]"], growing: Growing, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (uri, process), (folder, grow) = server, growing
    words = ["track", str(folder), "--to", "mlflow", "--uri", uri]

    # Half of the run, of which a crash lets half arrive.
    monkeypatch.setattr(to_mlflow, "_MOST_METRICS", 20)
    client = ToMlflow("masksup", uri)._client
    sends = iter(range(100))

    def crash(self: Any, *arguments: Any, **parts: Any) -> None:
        if parts.get("metrics") and next(sends) == 2:
            raise KeyboardInterrupt
        log_batch(self, *arguments, **parts)

    log_batch = type(client).log_batch
    monkeypatch.setattr(type(client), "log_batch", crash)
    assert main(words) == 130
    run, found = curves(client, "masksup")
    assert sum(map(len, found.values())) == 40
    assert run.info.status == "RUNNING"
    assert main(words) == 0
    assert curves(client, "masksup")[1] == expected(folder)
    first = sum(map(len, expected(folder).values()))
    assert f"{first - 40} new points up to step 4; see {uri}/#/experiments/" in capsys.readouterr().out

    # It goes on while it is followed; nobody sends it twice at a time.
    follower = ToMlflow("masksup", uri)
    following = threading.Thread(target=lambda: track([folder], follower, "mlflow", artifacts=True, every=0.1))
    following.start()
    deadline = time.monotonic() + 60
    while not follower._there and following.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert main(words) == 2
    assert "another process sends this run to mlflow already" in capsys.readouterr().err
    grow()
    following.join(60)
    assert not following.is_alive()
    run, found = curves(client, "masksup")
    assert found == expected(folder)
    assert {step for step, _ in found["train/loss"]} == set(range(1, 8))
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.info.end_time == int(1000 * (folder / "result.json").stat().st_mtime)
    assert run.data.params["optim.lr"] == "0.003"
    assert "optim.clip" not in run.data.params  # a default
    assert run.data.tags["protocol.ap_rule"] == "area"
    assert {run.data.tags[name] for name in ("host", "commit")} >= {os.uname().nodename}
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"config.yaml", "result.json", "starts.jsonl", "metrics.jsonl"}

    # It went back to an older checkpoint and made its steps anew.
    rows = (folder / "metrics.jsonl").read_text()
    record = Record(folder)
    record.start(2)
    record.close()
    assert len(read_rows(folder / "metrics.jsonl")) < len(rows.splitlines())
    (folder / "result.json").rename(folder / "later")
    assert main(words) == 0
    assert curves(client, "masksup")[0].info.status == "RUNNING"
    (folder / "metrics.jsonl").write_text(rows)
    (folder / "later").rename(folder / "result.json")
    moved = folder.rename(folder.with_name("renamed"))
    assert main(["track", str(moved), *words[2:]]) == 0
    assert curves(client, "masksup")[1] == found
    assert found["epoch"][-1] == (7, 2.0)
    assert "no new points" in capsys.readouterr().out

    process.kill()
    process.wait()
    with pytest.raises(JobError, match=r"^mlflow: API request to .*failed"):
        track([moved], open_tracker("mlflow", "masksup", uri), "mlflow")


def test_names_that_mlflow_refuses_stay_apart() -> None:
    same = ["train/loss", "AP/traffic light", "AP/große Katze", "epoch"]
    assert [metric_name(name) for name in same] == same
    odd = ["AP/a,b", "AP/a;b", "AP/a/b", "AP/..", "AP/'", "AP/" + "x" * 300, "AP/" + "x" * 299]
    assert len({metric_name(name) for name in odd}) == len(odd)
    validation = pytest.importorskip("mlflow.utils.validation")
    for name in odd:
        validation._validate_metric_name(metric_name(name))


def test_mistakes_are_one_line(
    growing: Growing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = growing
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for words, told in (
        (["--to", "mlflow"], "--to mlflow: mlflow is not installed; pip install 'masksup[mlflow]'"),
        (["--to", "wandb", "--uri", "x"], "--uri: given with --to wandb, which goes by WANDB_BASE_URL; drop it"),
        (["--to", "wandb", "--every", "5"], "--every: found 5, expected seconds above 0, together with --follow"),
    ):
        assert main(["track", str(folder), *words]) == 2
        assert capsys.readouterr().err == f"masksup: {told}\n"
    monkeypatch.delitem(sys.modules, "mlflow")
    pytest.importorskip("mlflow")
    (tmp_path / "empty").mkdir()
    assert main(["track", str(tmp_path / "empty"), "--to", "mlflow", "--uri", str(tmp_path / "store")]) == 2
    assert "not a run folder: found no config.yaml in it" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_database_has_each_point_once(growing: Growing, tmp_path: Path) -> None:
    """The short form of it is the server."""
    folder, grow = growing
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    words = ["track", str(folder), "--to", "mlflow", "--uri", uri, "--project", "mine"]
    assert main(words) == 0
    grow()
    assert main(words) == 0
    assert main(words) == 0
    run, found = curves(ToMlflow("mine", uri)._client, "mine")
    assert found == expected(folder)
    assert run.info.status == "FINISHED"
