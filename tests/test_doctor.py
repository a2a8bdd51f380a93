"""`masksup doctor`: what bounds the speed, by numbers that are measured and by those that are given."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from masksup.cli import main
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.doctor.measure import Found, Recorded
from masksup.doctor.verdict import lines, verdict
from masksup.training.train import train

MakeConfig = Callable[..., Config]
GPU = Found("cuda", 4, 8, 2, "processes", 32, loader=900.0, step=300.0, launch_share=0.2, read_ms=0.1, decode_ms=4.0,
            transform_ms=1.5)  # fmt: skip


def words(found: Found) -> str:
    return "\n".join(lines(found, verdict(found)))


def test_a_fast_gpu_asks_for_as_many_workers_as_feed_it() -> None:
    hungry = replace(GPU, loader=380.0, step=2000.0)
    judged = verdict(hungry)
    assert judged.bound == "loader"
    settings = [setting for setting, _ in judged.change]
    assert settings[0] == "data.workers=7", "all of 8 CPUs but one"
    assert "--reencode" in settings[1], "decoding takes most"
    assert settings[2] == "--cpus-per-rank 15", "2,000 x 1.2 x 5.6 ms are 13.4 CPUs, and one trains"
    assert verdict(replace(hungry, step=500.0)).change[0][0] == "data.workers=4", "500 x 1.2 x 5.6 ms are 3.4 CPUs"
    slow_disk = verdict(replace(hungry, read_ms=9.0))
    assert "masksup shards INDEX --out DIR" in [setting for setting, _ in slow_disk.change]


def test_host_and_device_are_told_apart_by_what_the_host_waits() -> None:
    assert verdict(GPU).bound == "device"
    assert verdict(replace(GPU, launch_share=0.95)).bound == "host"
    assert verdict(replace(GPU, launch_share=1.0, device="cpu")).bound == "device", "a CPU is its own host"
    assert verdict(replace(GPU, loader=330.0)).bound == "loader", "a tenth more than the step is too little"


def test_a_record_of_another_machine_that_waited_is_not_hidden() -> None:
    waited = replace(GPU, recorded=Recorded(50, 2, 410.0, 0.31))
    assert "410 images/s on 2 ranks; 31% of the time it waited for data (median of 50 lines)" in words(waited)
    assert "the record says otherwise" in words(waited)
    assert "the record says otherwise" not in words(replace(GPU, recorded=Recorded(50, 2, 410.0, 0.01)))


def test_a_configuration_and_its_run_are_measured_and_stay_as_they_are(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once with a loader that is slow: each image takes 20 ms more."""
    import masksup.data.dataset as dataset

    config, real = tiny_config(epochs=1), dataset.decode_bytes
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    run, file = tmp_path / "run", tmp_path / "doctor.json"
    assert train(config, run) == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert main(["doctor", str(run), "--seconds", "0.05", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["measured"]["recorded"]["lines"] == 4
    assert found["measured"]["loader"] > 0 < found["measured"]["step"]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(0.02)
        return real(*args, **options)

    monkeypatch.setattr(dataset, "decode_bytes", slow)
    assert main(["doctor", str(tmp_path / "config.yaml"), "--seconds", "0.05", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert (found["bound"], found["measured"]["recorded"]) == ("loader", None)
    assert found["measured"]["loader"] < 50
    assert "bound by the loader: the loader gives" in capsys.readouterr().out


def test_what_it_cannot_measure_is_one_line(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frozen.yaml").write_text(to_yaml(tiny_config(model__frozen=True)))
    for given, told in (
        ([str(tmp_path / "frozen.yaml")], "model.frozen"), ([str(tmp_path)], "found no config.yaml"),
        ([str(tmp_path / "frozen.yaml"), "--seconds", "0"], "--seconds: found 0"),
    ):  # fmt: skip
        assert main(["doctor", *given]) == 2
        assert told in capsys.readouterr().err
