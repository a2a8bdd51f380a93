"""Climbing the ladder: each rung is tried, judged and written down, until nothing that is left would pay or fit."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masksup.base.files import write_atomically
from masksup.base.log import log
from masksup.base.place import ALONE
from masksup.base.signals import stop_requested
from masksup.config.load import as_config, load_config
from masksup.config.schema import Config
from masksup.config.yaml_text import parse_yaml, read_yaml, write_yaml
from masksup.errors import UserError
from masksup.evaluation.kept import Stopped
from masksup.runtime.progress import duration
from masksup.runtime.run_folder import refuse_foreign
from masksup.selection import CHOICES
from masksup.selection.budget import too_much
from masksup.selection.decided import refuse_decided
from masksup.selection.judge import mean_ap_of, score_of
from masksup.selection.ladder import Rung, waits_for
from masksup.selection.out_of_fold import held_out_fold, pooled
from masksup.selection.search import Climb, journal, keep, take_up
from masksup.training.open import build


def begin(search: Climb, train_index: Path) -> None:
    """Write what will be tried, or go on with what is there. UserError for what cannot be tried at all."""
    write_rungs(search, train_index, tree := journal(search))
    if tree is not None:
        take_up(search, tree)
    if not (search.out / CHOICES).exists():
        keep(search)  # which tells others from the start whose folds these are


def climb(search: Climb) -> None:
    """Try the rungs in turn. Stopped at a signal; `begin` and this go on from there."""
    for rung in search.rungs:
        why = why_not(search, rung) or too_much(search, rung)
        if why is not None:
            search.passed_over[rung.name] = why
            log.info(f"{rung.title}: not tried, because {why}")
            continue
        with _timed(search, rung):
            _try(search, rung)
        _tell(search, rung)
    keep(search)
    if len(search.tried) == 1:
        log.warning(
            f"only one setting was tried ({search.tried[0].title}), so nothing was compared: it is taken as it is; "
            "more --minutes would try others"
        )


def why_not(search: Climb, rung: Rung) -> str | None:
    """Why a rung is not tried, whatever time there is; None: nothing speaks against it."""
    if rung.unfit is not None:
        return rung.unfit
    pair = waits_for(rung, search.gains())
    if pair is not None:
        better, than = map(search.rung, pair)
        if left_out := [one for one in (better, than) if one.name not in search.scores]:
            return f"it needs the result of '{left_out[0].title}', which was not tried"
        return f"'{better.title}' is not clearly better than '{than.title}'"
    if rung.sure or rung.name in search.seconds:  # has been built before
        return None
    return misfit(search, load_config(search.file(rung), search.overrides)[0])


def misfit(search: Climb, config: Config) -> str | None:
    """Why a configuration cannot be trained here: network, weights and room for features are looked at."""
    try:
        build(config, search.out, False, ALONE)
    except UserError as error:
        return str(error)
    return None


def write_rungs(search: Climb, train_index: Path, before: Mapping[str, Any] | None = None) -> None:
    """The configuration of each rung, which `masksup train` takes. UserError before any is written: where settings
    contradict each other, or what is always tried fits neither the network nor a run that is already there.

    before: what an interrupted search has written.
    """
    data, fitting = {"train": str(train_index.resolve())}, [rung for rung in search.rungs if rung.unfit is None]
    files = [(rung, {**rung.settings, "data": data}) for rung in fitting]
    for rung, settings in files:
        if before is None:  # an older version took such words, and its folder goes on with them
            refuse_decided(as_config(settings, rung.title, ()), search.overrides)
        config = as_config(settings, rung.title, search.overrides)
        if rung.sure and before is None and (why := misfit(search, config)):
            raise UserError(f"{rung.title}: {why}")
        _refuse_other_run(search, rung, settings)
    for rung, settings in files:
        search.file(rung).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(search.file(rung), f"# {rung.title}\n{write_yaml(settings)}")


def _refuse_other_run(search: Climb, rung: Rung, settings: dict[str, Any]) -> None:
    """UserError where the run of a rung was trained with other settings, by another version of this program, or where
    its folder holds something else."""
    run, file = search.out / rung.name, search.file(rung)
    refuse_foreign(run)
    if run.exists() and file.exists() and read_yaml(file) != parse_yaml(write_yaml(settings)):
        raise UserError(
            f"{run}: another version of masksup auto trained it with the settings in {file}, which this one would "
            f"change; take another --out, or delete {run} and go on"
        )


def _try(search: Climb, rung: Rung) -> None:
    folds, begins = search.facts.folds, {rung.starts_from for rung in search.rungs}
    found = []
    for fold in range(folds):
        if stop_requested():
            raise Stopped
        log.info(f"{rung.title}: fold {fold + 1} of {folds}")
        found.append(held_out_fold(search.fold(rung, fold), search.out, rung.name in begins, search.masked))
    search.held[rung.name] = pooled(found)
    search.fold_scores[rung.name] = [mean_ap_of(fold, search.facts.counted_C) for fold in found]
    search.scores[rung.name] = score_of(search.held[rung.name], search.facts.counted_C)


@contextmanager
def _timed(search: Climb, rung: Rung) -> Iterator[None]:
    """Count the time of a rung, of a start that is cut off too."""
    began, before = time.monotonic(), search.seconds.setdefault(rung.name, 0.0)
    keep(search)  # that it has begun, should the process be killed
    try:
        yield
    finally:
        search.seconds[rung.name] = before + time.monotonic() - began
        keep(search)


def _tell(search: Climb, rung: Rung) -> None:
    score = search.scores[rung.name]
    low, high = score.clean.interval
    masked = "" if score.masked is None else f", {score.masked.mean_ap:.1f} with more than half of each hidden"
    log.info(
        f"{rung.title}: mAP {score.clean.mean_ap:.1f} [{low:.1f}, {high:.1f}] on held-out images{masked}, "
        f"{duration(search.seconds[rung.name])}"
    )
