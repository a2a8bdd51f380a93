"""`python -m tools.benchmark all`: its rows run in the smallest form, and what is compared is told apart."""

import json
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from tools import benchmark
from tools.speeds.measured import Figure, Setting, interleaved, noise, ratio

QUICK = ("eval", "predict", "methods", "saving", "counting", "map")  # the others start processes or train


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in benchmark.ROWS])
def test_each_row_measures_in_the_smallest_form(name: str, tmp_path: Path) -> None:
    module, _, function = benchmark.ROWS[name][0].partition(":")
    figures = list(getattr(import_module(f"tools.speeds.{module}"), function)(Setting(1, tmp_path, None, tiny=True)))
    assert figures
    for figure in figures:
        assert figure.value > 0 or name in ("saving", "recording")
        json.dumps(figure.to_json())


def test_the_command_prints_a_row_with_its_bound_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert benchmark.main(["all", "--tiny", "--rounds", "1", "--only", "map", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert "mAP over scikit-learn's" in said
    assert "at least 6.0 x" in said
    (figure,) = json.loads(file.read_text())["map"]
    assert figure["met"] is (figure["value"] >= 6)


def test_what_no_time_is_left_for_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["all", "--tiny", "--minutes", "0"]) == 0
    said = capsys.readouterr().out
    assert said.count("not run: no time left") == len(benchmark.ROWS)
    assert "gpu            not run: tools/gpu_check.py" in said


def test_sides_take_turns_and_the_slower_one_is_found() -> None:
    order: list[str] = []

    def side(name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            order.append(name)
            time.sleep(seconds)

        return work

    times = interleaved({"a": side("a", 0.001), "b": side("b", 0.02), "b again": side("c", 0.02)}, 2)
    assert "".join(order) == "abc" + "abc" + "cba"
    assert ratio(times, "b", "a", "clock") > 2
    assert ratio(times, "a", "b", "clock") < 0.5
    assert noise(times, "b", "b again", "clock") < 1


def test_a_bound_is_kept_or_missed() -> None:
    assert Figure("", 0.96, "x", ("at least", 0.95)).met is True
    assert Figure("", 0.94, "x", ("at least", 0.95)).met is False
    assert Figure("", 5.1, "%", ("at most", 5.0)).met is False
    assert Figure("", 9.0, "x").met is None
