"""Climbing the ladder: each rung is tried, judged and written down, until nothing that is left would pay or fit."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masksup.base.files import read_json, write_atomically, write_json
from masksup.base.log import log
from masksup.base.signals import stop_requested
from masksup.config.load import refuse_unfit
from masksup.config.yaml_text import write_yaml
from masksup.data.masks import Level
from masksup.errors import UserError
from masksup.evaluation.kept import Stopped
from masksup.runtime.progress import duration
from masksup.selection import CHOICES
from masksup.selection.cost import seconds_an_image
from masksup.selection.facts import DataFacts
from masksup.selection.judge import Score, chosen, gain, score_of
from masksup.selection.ladder import Rung, waits_for
from masksup.selection.out_of_fold import HELD_OUT, HeldOut, fold_config, held_out_fold, pooled, run_of

FORMAT = "masksup choices 1"


@dataclass(frozen=True)
class Budget:
    """What limits which rungs start. `trials` repeats to the bit; `minutes` depends on the machine."""

    minutes: float | None
    trials: int | None


@dataclass
class Climb:
    """What has been found so far, which `choices.json` keeps."""

    out: Path
    facts: DataFacts
    rungs: tuple[Rung, ...]
    budget: Budget
    options: dict[str, Any]
    """What the user chose. With other values it is another search."""
    held: dict[str, HeldOut] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each rung, over all starts of the command."""
    passed_over: dict[str, str] = field(default_factory=dict)
    """Why a rung was not tried."""

    @property
    def overrides(self) -> list[str]:
        """Settings of the command line, in every run of the search."""
        return list(self.options["settings"])

    @property
    def robust(self) -> bool:
        """Whether images with holes have a say in the choice."""
        return bool(self.options["robust"])

    @property
    def tried(self) -> list[Rung]:
        return [rung for rung in self.rungs if rung.name in self.scores]

    @property
    def winner(self) -> Rung:
        judged = {name: score.judged for name, score in self.scores.items()}
        return self.rung(chosen(judged, [rung.name for rung in self.tried]))

    def rung(self, name: str) -> Rung:
        return next(rung for rung in self.rungs if rung.name == name)

    @property
    def run(self) -> Path:
        """Where the chosen setting is trained on all images. With more time another one may be chosen."""
        return self.out / self.winner.name

    def file(self, rung: Rung) -> Path:
        """The configuration of a rung."""
        return self.out / "rungs" / f"{rung.name}.yaml"

    def gains(self) -> dict[tuple[str, str], bool]:
        """Of each pair of rungs, whether the first pays over the second."""
        pairs = [(a, b) for a in self.scores for b in self.scores if a != b]
        return {(a, b): gain(self.scores[a].judged, self.scores[b].judged).pays for a, b in pairs}


def climb(search: Climb, train_index: Path) -> None:
    """Try the rungs in turn. Stopped at a signal; the same call goes on from there."""
    _take_up(search)
    write_rungs(search, train_index)
    if not (search.out / CHOICES).exists():
        keep(search)  # which tells others from the start whose folds these are
    for rung in search.rungs:
        why = waits_for(rung, search.gains()) or _too_much(search, rung)
        if why is not None:
            search.passed_over[rung.name] = why
            log.info(f"{rung.title}: not tried, for {why}")
            continue
        with _timed(search, rung):
            _try(search, rung)
        _tell(search, rung)
    keep(search)
    if len(search.tried) == 1:
        log.warning(
            f"only one setting was tried ({search.tried[0].title}), so nothing was compared: it is taken as it is; "
            "more --minutes or --trials would try others"
        )


def write_rungs(search: Climb, train_index: Path) -> None:
    """The configuration of each rung, which `masksup train` takes. UserError before any is written."""
    files = [(rung, {**rung.settings, "data": {"train": str(train_index.resolve())}}) for rung in search.rungs]
    for rung, settings in files:
        refuse_unfit(settings, rung.title, search.overrides)
    for rung, settings in files:
        search.file(rung).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(search.file(rung), f"# {rung.title}\n{write_yaml(settings)}")


def _try(search: Climb, rung: Rung) -> None:
    folds, begins = search.facts.folds, {rung.starts_from for rung in search.rungs}
    found = []
    for fold in range(folds):
        if stop_requested():
            raise Stopped
        log.info(f"{rung.title}: fold {fold + 1} of {folds}")
        overrides = ["checkpoint.every_minutes=2", *search.overrides]
        if rung.starts_from is not None:
            below = search.file(search.rung(rung.starts_from))
            first = fold_config(below, overrides, folds, fold, search.out / "features")
            overrides = [*overrides, f"model.weights={json.dumps(str(run_of(first, search.out)))}"]
        config = fold_config(search.file(rung), overrides, folds, fold, search.out / "features")
        masked: Level | None = "high" if search.robust else None
        found.append(held_out_fold(config, search.out, rung.name in begins, masked))
    search.held[rung.name] = pooled(found)
    search.scores[rung.name] = score_of(search.held[rung.name], search.facts.counted_C)


def _too_much(search: Climb, rung: Rung) -> str | None:
    """Why the budget leaves no room for a rung."""
    if search.budget.trials is not None and len(search.tried) >= search.budget.trials:
        return f"--trials {search.budget.trials} are used up"
    if search.budget.minutes is None or rung.name in search.seconds or not search.seconds:
        return None
    spent = sum(search.seconds.values())
    needs = expected_seconds(search, rung)
    if spent + needs <= 60 * search.budget.minutes:
        return None
    whole = (spent + needs) / 60
    return (
        f"it needs about {needs / 60:.0f} minutes with the training at the end, and "
        f"{max(search.budget.minutes - spent / 60, 0):.0f} are left; --minutes {whole:.0f} would do"
    )


def expected_seconds(search: Climb, rung: Rung) -> float:
    """Of a rung and, should it win, of its training on all images."""
    folds = search.facts.folds
    if not rung.passes:  # features and all, as the head before it, whose images were smaller
        below = max((one for one in search.tried if not one.passes), key=lambda one: one.size)
        return search.seconds[below.name] * (rung.size / below.size) ** 2
    config = fold_config(search.file(rung), search.overrides, folds, 0, search.out / "features")
    images = search.facts.samples * rung.passes * folds  # of each fold all but the one held out, and of the end all
    return images * seconds_an_image(config, len(search.facts.positives_C))


@contextmanager
def _timed(search: Climb, rung: Rung) -> Iterator[None]:
    """Count the time of a rung, of a start that is cut off too."""
    began = time.monotonic()
    try:
        yield
    finally:
        search.seconds[rung.name] = search.seconds.get(rung.name, 0.0) + time.monotonic() - began
        keep(search)


def _tell(search: Climb, rung: Rung) -> None:
    score = search.scores[rung.name]
    low, high = score.clean.interval
    masked = "" if score.masked is None else f", {score.masked.mean_ap:.1f} with more than half of each hidden"
    log.info(
        f"{rung.title}: mAP {score.clean.mean_ap:.1f} [{low:.1f}, {high:.1f}] on held-out images{masked}, "
        f"{duration(search.seconds[rung.name])}"
    )


def keep(search: Climb) -> None:
    """Write `choices.json`."""
    search.out.mkdir(parents=True, exist_ok=True)
    write_json(search.out / CHOICES, to_json(search))


def to_json(search: Climb) -> dict[str, Any]:
    """What was tried, with which score, and what was chosen."""
    rows = []
    for rung in search.rungs:
        score = search.scores.get(rung.name)
        found: dict[str, Any] = {"name": rung.name, "title": rung.title, "config": str(search.file(rung))}
        if rung.name in search.seconds:
            found["seconds"] = search.seconds[rung.name]
        if score is not None:
            found |= {"mAP": score.clean.mean_ap, "mAP_interval": list(score.clean.interval)}
        if score is not None and score.masked is not None:
            found |= {"mAP_masked": score.masked.mean_ap, "mAP_masked_interval": list(score.masked.interval)}
            found |= {"mAP_judged": score.judged.mean_ap, "mAP_judged_interval": list(score.judged.interval)}
        if rung.name in search.passed_over:
            found["not_tried"] = search.passed_over[rung.name]
        rows.append(found)
    judged_by = "; judged by the mean of mAP_masked, under high masks, and mAP" if search.robust else ""
    return {
        "format": FORMAT, **search.facts.to_json(), "options": search.options,
        "protocol": f"mean AP (area) of {search.facts.folds} folds of the training part, held out in turn and pooled, "
        f"over classes with at least {search.facts.folds} positives{judged_by}; the first rung that the best one does "
        "not beat by more than a standard error of the paired difference",
        "rungs": rows, "chosen": search.winner.name if search.scores else None,
    }  # fmt: skip


def _take_up(search: Climb) -> None:
    """Go on with a search of the same data and options."""
    file = search.out / CHOICES
    if not file.exists():
        return
    tree = read_json(file, "the choices of masksup auto")
    if tree.get("format") != FORMAT:
        raise UserError(f"{file}: format: found {tree.get('format')!r}, expected '{FORMAT}'; take another --out")
    if not any((search.out / HELD_OUT).glob("*.npz")):
        return  # stopped before anything was found, such as by a setting that did not fit
    before = {"index": tree.get("index"), "robust": False, **(tree.get("options") or {})}
    for key, value in {"index": search.facts.index, **search.options}.items():
        if before.get(key) != value:
            raise UserError(f"{file}: {key}: found {before.get(key)!r}, asked for {value!r}; take another --out")
    search.seconds |= {row["name"]: row["seconds"] for row in tree["rungs"] if "seconds" in row}
    log.info(f"{search.out}: goes on after {sum(search.seconds.values()) / 60:.0f} minutes")
