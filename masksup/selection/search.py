"""What a search has found so far, and the file `choices.json` that keeps it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from masksup.base.files import file_sha256, read_json, write_json
from masksup.base.log import log
from masksup.config.schema import Config
from masksup.data.masks import Level
from masksup.errors import UserError
from masksup.runtime.progress import duration
from masksup.saved.open import is_run, open_trained
from masksup.selection import CHOICES
from masksup.selection.facts import DataFacts
from masksup.selection.judge import Score, chosen, gain
from masksup.selection.ladder import Rung
from masksup.selection.out_of_fold import HELD_OUT, HeldOut, fold_config, held_out_file, run_of

FORMAT = "masksup choices 1"
_NAMES = {
    "index": "index of the images", "test": "index of --test", "settings": "key=value",
    "weights_sha256": "sha256 of --weights",
}  # fmt: skip


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
    expected: dict[str, float] = field(default_factory=dict)
    """Seconds that a rung will take by a step of its own, which is timed once."""
    fold_scores: dict[str, list[float]] = field(default_factory=dict)
    """Mean AP of each fold, in percent; NaN where it has no positive of a class that counts."""

    @property
    def overrides(self) -> list[str]:
        """Settings of the command line, in every run of the search."""
        return list(self.options["settings"])

    @property
    def robust(self) -> bool:
        """Whether images with holes have a say in the choice."""
        return bool(self.options["robust"])

    @property
    def masked(self) -> Level | None:
        """The masks under which held-out images are scored, too."""
        return "high" if self.robust else None

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

    def fold(self, rung: Rung, fold: int) -> Config:
        """The run of a rung that holds out a fold. It begins with the run of the same fold of the rung below it."""
        overrides = ["checkpoint.every_minutes=2", *self.overrides]
        if rung.starts_from is not None:
            first = self.fold(self.rung(rung.starts_from), fold)
            overrides.append(f"model.weights={json.dumps(str(run_of(first, self.out)))}")
        return fold_config(self.file(rung), overrides, self.facts.folds, fold, self.out / "features")


def keep(search: Climb) -> None:
    """Write `choices.json`."""
    search.out.mkdir(parents=True, exist_ok=True)
    write_json(search.out / CHOICES, to_json(search))


def to_json(search: Climb) -> dict[str, Any]:
    """What was tried, with which score, and what was chosen."""
    judged_by = "; judged by the mean of mAP_masked, under high masks, and mAP" if search.robust else ""
    return {
        "format": FORMAT, **search.facts.to_json(), "options": search.options,
        "protocol": f"mean AP (area) of {search.facts.folds} folds of the training part, held out in turn and pooled, "
        f"over classes with at least {search.facts.folds} positives{judged_by}; the first rung that the best one does "
        "not beat by more than a standard error of the paired difference",
        "rungs": [_row(search, rung) for rung in search.rungs],
        "chosen": search.winner.name if search.scores else None,
    }  # fmt: skip


def _row(search: Climb, rung: Rung) -> dict[str, Any]:
    """What `choices.json` says of a rung."""
    score = search.scores.get(rung.name)
    found: dict[str, Any] = {"name": rung.name, "title": rung.title}
    if rung.unfit is None:
        found["config"] = str(search.file(rung))
    if rung.name in search.seconds:
        found["seconds"] = search.seconds[rung.name]
    if score is not None:
        found |= {"mAP": score.clean.mean_ap, "mAP_interval": list(score.clean.interval)}
        found["mAP_folds"] = [None if np.isnan(one) else one for one in search.fold_scores[rung.name]]
    if score is not None and score.masked is not None:
        found |= {"mAP_masked": score.masked.mean_ap, "mAP_masked_interval": list(score.masked.interval)}
        found |= {"mAP_judged": score.judged.mean_ap, "mAP_judged_interval": list(score.judged.interval)}
    if rung.name in search.passed_over:
        found["not_tried"] = search.passed_over[rung.name]
    return found


def journal(search: Climb) -> dict[str, Any] | None:
    """What a search before this one has written in its folder; None where it found nothing. UserError where it was
    another search."""
    return journal_of(search.out, {"index": search.facts.index, **search.options})


def journal_of(out: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same, where only some of the options are known yet.

    asked: what the user chose, and the hash of the index. A version that did not keep one of them is believed.
    """
    file = out / CHOICES
    if not file.exists():
        return None
    tree: dict[str, Any] = read_json(file, "the choices of masksup auto")
    if tree.get("format") != FORMAT:
        raise UserError(f"{file}: format: found {tree.get('format')!r}, expected '{FORMAT}'; take another --out")
    if not any((out / HELD_OUT).glob("*.npz")):
        return None  # stopped before anything was found, such as by a setting that did not fit
    unknown = {"robust": False, "weights_sha256": asked.get("weights_sha256")}
    before = {"index": tree.get("index"), **unknown, **(tree.get("options") or {})}
    for key, value in asked.items():
        if before.get(key) != value:
            what = _NAMES.get(key, f"--{key}")
            had, wanted = _as_given(before.get(key)), _as_given(value)
            raise UserError(f"{file}: {what}: found {had}, asked for {wanted}; take another --out")
    return tree


def _as_given(value: Any) -> str:
    """An option as it stands in a command line."""
    if isinstance(value, list):
        value = " ".join(value)
    return "given" if value is True else "not given" if value in (None, "") or value is False else str(value)


def take_up(search: Climb, tree: dict[str, Any]) -> None:
    """Go on with the search that has written `tree`: count the time of what is still there."""
    known = {rung.name: rung for rung in search.rungs if rung.unfit is None}
    for row in tree["rungs"]:
        rung = known.get(row["name"])
        if rung is None or "seconds" not in row:
            continue
        if "mAP" in row and not _is_there(search, rung):
            log.warning(
                f"{rung.title}: its scores are of other settings or files than those of today, so it is tried again"
            )
            continue
        search.seconds[rung.name] = row["seconds"]
    log.info(f"{search.out}: goes on after {duration(sum(search.seconds.values()))}")


def _is_there(search: Climb, rung: Rung) -> bool:
    """Whether all folds of a rung have been scored."""
    folds = (search.fold(rung, number) for number in range(search.facts.folds))
    return all(held_out_file(fold, search.out, search.masked).exists() for fold in folds)


def weights_sha256(weights: str) -> str | None:
    """What the path of --weights holds: a file, or a run by its newest weights. None of a name."""
    path = Path(weights)
    if path.is_file():
        return file_sha256(path)
    return open_trained(path).sha256 if is_run(path) else None
