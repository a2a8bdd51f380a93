"""`masksup-launch preflight --throughput`: what a run would take, from rates that are given and that are measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.start import here, throughput
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.doctor.throughput import Rates, lines, predicted

MakeConfig = Callable[..., Config]
RATES = Rates("cuda", 4, 128, 32, steps_measured=40, step_seconds=0.5, steps_an_epoch=720.0, steps=7200, epochs=10.0,
              evaluations=10, evaluation_seconds=36.0)  # fmt: skip
LOCAL = ("--cluster", "local", "--gpus-per-node", "0")


def test_a_run_takes_its_steps_and_its_evaluations_on_every_rank() -> None:
    found = predicted(RATES)
    assert found.epoch_seconds == 360
    assert found.run_hours == pytest.approx((7200 * 0.5 + 10 * 36) / 3600)
    assert found.gpu_hours == pytest.approx(4 * found.run_hours)
    told = "\n".join(lines(RATES))
    assert "GPU-hours        4.4     4 ranks x 1.1 h" in told
    assert "10 evaluations of a run" in told


@pytest.fixture
def file(tiny_config: MakeConfig, tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(to_yaml(tiny_config(data__workers=0)))
    return tmp_path / "mine.yaml"


def test_a_configuration_is_measured_and_nothing_is_left(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process."""

    def here_and_now(module: str, words: list[str], _: object) -> int:
        assert module == "launch.start.throughput"
        throughput.main(Path(words[0]), Path(words[1]), float(words[2]))
        return 0

    monkeypatch.setattr(here, "on_this_machine", here_and_now)
    before = sorted(tmp_path.rglob("*"))
    words = ["preflight", "--throughput", str(file), *LOCAL, "--folder", str(tmp_path), "--seconds", "0.1", "--json"]
    assert main(words) == 0
    found = capsys.readouterr()
    value = json.loads(found.out)
    assert value["measured"].keys() == vars(RATES).keys()
    assert value["predicted"].keys() == {"epoch_seconds", "run_hours", "gpu_hours"}
    assert value["measured"]["step_seconds"] > 0 < value["measured"]["evaluation_seconds"]
    assert value["measured"]["ranks"] == 1
    assert "rank-hours" in found.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--throughput", "FILE", "--set", "optim.lr=x"), "optim.lr: found 'x'"),
        (("--throughput", "FILE", "--seconds", "0"), "--seconds: found 0"),
        (("--throughput", "FILE", "--data", "x"), "--data: found it with --throughput"),
        (("--seconds", "3"), "--seconds: found it without --throughput"),
        (("--set", "optim.lr=1"), "--set: found it without --throughput"),
        ((), "--cluster: found it without --throughput"),
    ],
)
def test_what_is_wrong_is_one_line_before_any_rank_starts(
    words: tuple[str, ...], told: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "on_this_machine", lambda *_: pytest.fail("a rank was started"))
    given = [str(file) if word == "FILE" else word for word in words]
    assert main(["preflight", *given, *LOCAL, "--folder", str(file.parent)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
