"""Which rungs of `masksup auto` start: a head alone and a training of the network, others while there is room."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from choosing import QUICK

from masksup.metrics.paired import Resampled
from masksup.selection.budget import about, expected_seconds, too_much
from masksup.selection.climb import why_not
from masksup.selection.facts import DataFacts
from masksup.selection.judge import Score
from masksup.selection.ladder import StartingPoint, ladder
from masksup.selection.search import Budget, Climb

START = StartingPoint("test_vit", "weights.pth", 64)
FACTS = DataFacts("mine", "hash", 50, 50, (64, 64), ("cat", "dog"), np.array([9, 9]), 0.0, 3)
OPTIONS: dict[str, Any] = {"settings": QUICK, "robust": False}
EXPECTED = {"probe-64": 60.0, "probe-128": 60.0, "lora-64": 600.0, "finetuned-64": 600.0, "finetuned-128": 1200.0}


def score(mean_ap: float) -> Score:
    noise_R = np.random.default_rng(int(mean_ap)).normal(0, 0.1, 100)
    return Score(Resampled(np.array([mean_ap]), mean_ap, mean_ap + noise_R))


def search(
    minutes: float | None = None, trials: int | None = None, start: StartingPoint = START, **tried: float
) -> Climb:
    """A search that has tried these rungs, each of them a minute, with that mAP."""
    names = {name.replace("_", "-"): mean_ap for name, mean_ap in tried.items()}
    scores = {name: score(mean_ap) for name, mean_ap in names.items()}
    return Climb(
        Path("out"), FACTS, ladder(start), Budget(minutes, trials), OPTIONS, {}, scores, dict.fromkeys(names, 60.0), {},
        dict(EXPECTED),
    )  # fmt: skip


def tried_in_turn(found: Climb) -> list[str]:
    """What is tried where each rung pays and takes as long as was expected."""
    for rung in found.rungs:
        if rung.unfit is None and too_much(found, rung) is None:
            found.scores[rung.name] = score(40.0 + len(found.scores))
            found.seconds[rung.name] = EXPECTED.get(rung.name, 60.0)
    return [rung.name for rung in found.tried]


@pytest.fixture(autouse=True)
def first_head_takes_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masksup.selection.search.fold_config", lambda *_: _Flipped)
    monkeypatch.setattr("masksup.selection.budget.seconds_of_features", lambda *_: 0.6)


class _Flipped:
    class augment:
        flip = 0.5


@pytest.mark.parametrize(
    ("trials", "names"),
    [
        (2, ["head-64", "finetuned-64"]),
        (3, ["head-64", "head-128", "finetuned-64"]),
        (5, ["head-64", "head-128", "probe-64", "probe-128", "finetuned-64"]),
        (6, ["head-64", "head-128", "probe-64", "probe-128", "lora-64", "finetuned-64"]),
    ],
)
def test_of_few_trials_one_is_kept_for_fine_tuning(trials: int, names: list[str]) -> None:
    assert tried_in_turn(search(trials=trials)) == names


@pytest.mark.parametrize(
    ("minutes", "names"),
    [
        (1.5, ["head-64", "finetuned-64"]),  # past the limit, because it is always tried
        (11.5, ["head-64", "finetuned-64"]),  # an attentive head needs a minute more
        (
            13.5,
            ["head-64", "probe-64", "probe-128", "finetuned-64"],
        ),  # the head at 128 px would have taken four minutes
        (16, ["head-64", "head-128", "probe-64", "probe-128", "finetuned-64"]),
        (60, ["head-64", "head-128", "probe-64", "probe-128", "lora-64", "finetuned-64", "finetuned-128"]),
    ],
)
def test_few_minutes_are_kept_for_fine_tuning(minutes: float, names: list[str]) -> None:
    assert tried_in_turn(search(minutes=minutes)) == names


def test_what_will_end_late_is_said_before_it_begins(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "masksup")
    found = search(minutes=5, head_64=40)
    assert too_much(found, found.rung("finetuned-64")) is None
    (line,) = caplog.messages
    assert line == (
        "fine-tuning from the head at 64 px: about 10 minutes with the training at the end, although of --minutes 5 "
        "only 4 minutes are left: a head alone and one training of the network are always tried"
    )
    caplog.clear()
    found = search(minutes=15, head_64=40)
    assert too_much(found, found.rung("finetuned-64")) is None
    assert caplog.messages == ["fine-tuning from the head at 64 px: about 10 minutes with the training at the end"]


def test_what_is_left_out_says_how_much_would_do() -> None:
    found = search(minutes=5, head_64=40)
    assert too_much(found, found.rung("head-128")) == (
        "it needs about 4 minutes with the training at the end, and 4 minutes are left beside fine-tuning from the "
        "head at 64 px, which is always tried and needs 10 minutes; --minutes 16 would do"
    )
    assert tried_in_turn(search(minutes=16))[1] == "head-128"
    found = search(trials=2, head_64=40)
    assert too_much(found, found.rung("head-128")) == (
        "--trials 2 are used up, one of them for fine-tuning from the head at 64 px, which is always tried"
    )


def test_without_any_time_left_what_is_always_tried_begins(caplog: pytest.LogCaptureFixture) -> None:
    found = search(minutes=1, head_64=40)
    assert too_much(found, found.rung("finetuned-64")) is None
    assert "about 10 minutes with the training at the end, although of --minutes 1 none is left" in caplog.text
    assert tried_in_turn(found) == ["head-64", "finetuned-64"]


def test_what_had_begun_goes_on_whatever_the_limit() -> None:
    found = search(minutes=1, head_64=40)
    found.seconds["lora-64"] = 300
    assert too_much(found, found.rung("lora-64")) is None


def test_lora_is_for_networks_with_linear_layers() -> None:
    found = search(trials=9, start=replace(START, linear_layers=False))
    assert why_not(found, found.rung("lora-64")) == "the network has no linear layers"
    assert "lora-64" not in tried_in_turn(found)
    assert "lora-64" in tried_in_turn(search(trials=9))


def test_a_rung_that_waits_says_for_what() -> None:
    found = search(trials=9, head_64=40, probe_64=50)
    last = found.rung("probe-128")
    assert why_not(found, last) == "it needs the result of 'the head only, 128 px', which was not tried"
    found.scores["head-128"] = score(30)
    assert why_not(found, last) == "'the head only, 128 px' is not clearly better than 'the head only, 64 px'"


def test_lora_keeps_the_heads_rate_of_fine_tuning_and_adds_to_the_layers_alone() -> None:
    rungs = {rung.name: rung for rung in ladder(START)}
    lora, whole = rungs["lora-64"].settings, rungs["finetuned-64"].settings
    assert lora["model"].pop("lora")["rank"] > 0
    ours, theirs = lora.pop("optim"), whole.pop("optim")
    assert ours["lr"] * ours["head_factor"] == pytest.approx(theirs["lr"] * theirs["head_factor"])
    assert lora == whole
    assert rungs["lora-64"].starts_from == rungs["finetuned-64"].starts_from == "head-64"


def test_times_are_told_as_people_say_them() -> None:
    assert [about(seconds) for seconds in (1, 40, 150, 6000, 9000)] == [
        "1 second", "40 seconds", "2 minutes", "100 minutes", "2.5 hours",
    ]  # fmt: skip


def test_a_head_on_two_sides_together_follows_the_head_on_the_larger() -> None:
    """Where the network takes any side; it costs a quarter more than the larger side alone."""
    both = [rung for rung in ladder(replace(START, any_side=True)) if "octaves" in rung.settings["model"]]
    assert [rung.name for rung in both] == ["head-128-64"]
    assert both[0].settings["model"] | {"octaves": 1} == ladder(START)[1].settings["model"] | {"octaves": 1}
    assert not any("octaves" in rung.settings["model"] for rung in ladder(START))
    assert not any(
        "octaves" in rung.settings["model"] for rung in ladder(StartingPoint("net", "none", 64, any_side=True))
    )
    found = search(start=replace(START, any_side=True), head_64=40, head_128=41)
    assert expected_seconds(found, both[0]) == 1.25 * 60
