"""A clock that is set by a year, and a disk that fails or turns read-only, in mid-run: by tests/faulty.c."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import assert_same_run, final_state
from test_kill import wait_for

from launch.watch.status import rows
from masksup.config.load import load_config, to_yaml
from masksup.config.schema import Config
from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint
from masksup.training.train import train

YEAR = 365 * 24 * 3600
DEADLINE = 120


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler (cc or gcc) on Linux for tests/faulty.c")
    library = tmp_path_factory.mktemp("shim") / "faulty.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", "-o", library, Path(__file__).with_name("faulty.c"), "-ldl"], check=True
    )
    return library


@pytest.fixture(scope="module")
def clean(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("faulty")
    # Saved at every fourth step, and by time: never within the minutes of this test, unless the clock is believed.
    config = tiny_config(epochs=5, checkpoint={"every_steps": 4, "every_minutes": 60, "keep": 100})
    (folder / "config.yaml").write_text(to_yaml(config))
    assert train(config, folder / "clean") == 0
    return folder / "config.yaml", folder / "clean"


def faulty(
    shim: Path, config: Path, run: Path, heals: Callable[[str], bool] = lambda _: False, **faults: str | int
) -> tuple[int, str]:
    """Train until the fault that begins after a checkpoint ends it, or to the end; its status and what it said.

    heals: whether the fault ends with this line.
    """
    switch = run.parent / f"{run.name}.on"
    environment = {key: str(value) for key, value in faults.items()}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "masksup", "train", str(config), "--run-dir", str(run)],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1", "LD_PRELOAD": str(shim), "FAULTY_ON": str(switch)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said: list[str] = []

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if heals(line):
                switch.unlink(missing_ok=True)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        wait_for(lambda: len(list_checkpoints(run / "checkpoints")) > 0, process)
        switch.touch()
        status = process.wait(DEADLINE)
    finally:
        process.kill()
        listener.join()
        switch.unlink(missing_ok=True)
    return status, "".join(said)


@pytest.mark.parametrize("seconds", [pytest.param(years * YEAR, marks=pytest.mark.slow) for years in (1, -1)])
def test_a_clock_that_is_set_by_a_year_changes_nothing(
    seconds: int, shim: Path, clean: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, said = faulty(shim, clean[0], run, FAULTY_SECONDS=seconds)
    assert status == 0, said
    assert_same_run(clean[1], run)
    saved = [path.name for path in list_checkpoints(run / "checkpoints")]
    assert saved == [path.name for path in list_checkpoints(clean[1] / "checkpoints")], "saved by a clock that was set"
    beat = json.loads((run / "heartbeat.json").read_text())
    assert abs(beat["time"] - beat["seen"] - seconds) < 60, "the clock was not set while it ran"
    assert 0 < beat["last_step_at"] - beat["first_step_at"] < DEADLINE
    (run / "result.json").unlink()  # status then goes by the last sign of life
    (row,) = rows([run], tmp_path)
    assert row.state == "stopped", "a sign of life from next year, or from last year, is none of now"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
@pytest.mark.slow  # short: a disk that fails for good
def test_a_disk_that_fails_for_a_while_costs_checkpoints_and_nothing_else(
    number: int, shim: Path, clean: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    alarm = "ALARM: a checkpoint could not be saved, training goes on without it"
    status, said = faulty(
        shim, clean[0], run, lambda line: alarm in line, FAULTY_PATH=f"{run}/checkpoints/", FAULTY_ERRNO=number
    )
    assert status == 0, said
    assert said.count(alarm) >= 1, said
    assert os.strerror(number) in said
    assert_same_run(clean[1], run)


@pytest.mark.parametrize("number", [errno.EIO, pytest.param(errno.EROFS, marks=pytest.mark.slow)])
def test_a_disk_that_fails_for_good_ends_in_one_line_and_the_same_command_goes_on(
    number: int, shim: Path, clean: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, said = faulty(shim, clean[0], run, FAULTY_PATH=f"{run}/", FAULTY_ERRNO=number)
    assert status == 2, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"masksup: {run}/")
    assert "run the same command again" in said.splitlines()[-1]
    assert not (run / "result.json").exists()
    for path in list_checkpoints(run / "checkpoints"):
        read_checkpoint(path)
    assert train(load_config(clean[0])[0], run) == 0
    left, right = final_state(clean[1]), final_state(run)
    assert all((left[name] == right[name]).all() for name in left)


def test_an_image_that_the_disk_does_not_give_ends_in_one_line_and_the_same_command_goes_on(
    shim: Path, clean: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, said = faulty(shim, clean[0], run, FAULTY_PATH=".jpg", FAULTY_ERRNO=errno.EIO, FAULTY_READS=1)
    assert status == 2, said
    assert "found it unreadable (Input/output error), expected an image" in said.splitlines()[-1]
    assert train(load_config(clean[0])[0], run) == 0
    assert_same_run(clean[1], run)
