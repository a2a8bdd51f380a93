"""Runs in Weights & Biases offline: what lies in its files for `wandb sync`, each step once."""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from masksup.cli import main
from masksup.errors import UserError
from masksup.runtime.metrics_log import Record
from masksup.track.run import read_run
from masksup.track.to_wandb import ToWandb

Growing = tuple[Path, Callable[[], None]]
KILLED = """
import os, signal, sys
from pathlib import Path
from masksup.track.run import read_run
from masksup.track.open import open_tracker
tracker = open_tracker("wandb", "masksup", None)
print(tracker.send(read_run(Path(sys.argv[1])), artifacts=False), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def records(file: Path) -> Iterator[Any]:
    """Of a `.wandb` file: a log as of LevelDB, in blocks of 32 KiB, of protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record as WandbRecord

    data, at, whole = file.read_bytes(), 7, b""  # behind the head
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            record = WandbRecord()
            record.ParseFromString(whole)
            yield record


def history(folder: Path) -> list[dict[str, Any]]:
    """All steps that lie offline, in the order in which they would be sent."""
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in records(file):
            if record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                found.append(items | {"_step": record.history.step.num})
    return found


def steps(folder: Path) -> list[int]:
    return [row["_step"] for row in history(folder)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.slow
def test_each_step_lies_offline_once(
    growing: Growing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is killed after it sent and before it noted that; it grows, and goes back to an older checkpoint."""
    pytest.importorskip("wandb")
    folder, grow = growing
    words = ["track", str(folder), "--to", "wandb"]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL
    assert int(killed.stdout) > 20
    assert main(words) == 0
    assert steps(folder) == [1, 2, 3]  # the fourth may not be complete
    assert main(words) == 0
    assert "no new points" in capsys.readouterr().out
    record = Record(folder)
    record.start(2)
    record.close()
    assert main(words) == 0
    grow()
    assert main([*words, "--artifacts"]) == 0
    assert main([*words, "--artifacts"]) == 0
    assert steps(folder) == list(range(1, 8))
    run = read_run(folder)
    assert run is not None
    for row in history(folder):
        assert {point.name: point.value for point in run.points if point.step == row["_step"]}.items() <= row.items()
    files = list(folder.glob(f"wandb/offline-run-*-{run.id}/*.wandb"))
    assert len(files) == len(list(folder.glob("wandb/**/*.wandb"))) == 2
    sent = [record for file in files for record in records(file)]
    configs = [{u.key: json.loads(u.value_json) for u in r.run.config.update} for r in sent if r.HasField("run")]
    assert all(config["optim.lr"] == 0.003 for config in configs)
    artifacts = [r.request.log_artifact.artifact for r in sent if r.request.HasField("log_artifact")]
    artifacts += [r.artifact for r in sent if r.HasField("artifact")]
    assert len(artifacts) == 1
    assert f"wandb sync {folder}/wandb/offline-run-*-{run.id}" in capsys.readouterr().out


def test_modes_that_send_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", sys)  # it is not used so far
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(UserError, match="WANDB_MODE: found disabled, expected online or offline"):
        ToWandb("masksup")


def test_wandb_missing_and_notes_that_are_damaged(
    growing: Growing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = growing
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["track", str(folder), "--to", "wandb"]) == 2
    assert capsys.readouterr().err == "masksup: --to wandb: wandb is not installed; pip install 'masksup[wandb]'\n"
    monkeypatch.setitem(sys.modules, "wandb", sys)
    (folder / "wandb").mkdir()
    (folder / "wandb" / "masksup.json").write_text('{"offline')
    assert main(["track", str(folder), "--to", "wandb"]) == 2
    assert "masksup.json: cannot be read" in capsys.readouterr().err
    assert os.listdir(folder / "wandb") == ["masksup.json"]  # noqa: PTH208
