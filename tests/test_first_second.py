"""What is answered before torch is loaded, and how a command ends that is interrupted by then."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import launch.__main__
import masksup.cli
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.runtime.run_folder import open_run

INTERRUPTED = """
import sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == {late!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from masksup.__main__ import {entry}
sys.exit({entry}())
"""
SIGNALS = """
import os, signal
from masksup.base import signals
signals.install("finishes this step")
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
print(signals.stop_requested(), flush=True)
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("now")
"""
TRAIN = """
import sys
from masksup.cli import main
status = main(["train", *sys.argv[1:]])
sys.exit(99 if "torch" in sys.modules else status)
"""


@pytest.mark.parametrize(("entry", "late"), [("main", "masksup.cli"), ("main", "masksup.exits"), ("run", "numpy")])
def test_ctrl_c_while_a_command_is_loaded(entry: str, late: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", INTERRUPTED.format(entry=entry, late=late)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_only_a_second_ctrl_c_means_now() -> None:
    """Whatever other signal came before the first. Said is the first request, at once."""
    done = subprocess.run([sys.executable, "-P", "-c", SIGNALS], capture_output=True, text=True)
    assert done.stdout.split() == ["SIGTERM", "now"], done.stderr
    assert done.stderr.strip() == "masksup: SIGTERM: finishes this step; a second Ctrl-C leaves at once"


def test_a_second_process_is_refused_before_torch_is_loaded(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(to_yaml(tiny_config()))
    holder = open_run(run, tiny_config())
    done = subprocess.run(
        [sys.executable, "-P", "-c", TRAIN, str(config), "--run-dir", str(run)], capture_output=True, text=True
    )
    assert holder.lock is not None
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"masksup: {run}: another process is training in this run folder (pid ")


@pytest.mark.parametrize("main", [masksup.cli.main, launch.__main__.main], ids=["masksup", "masksup-launch"])
def test_a_program_alone_shows_its_help(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: masksup")
    assert "COMMAND" in shown.out
    assert shown.err == ""
