"""`guided` of a sweep file: Optuna proposes settings from the scores of those that have finished.

Each call of `masksup-launch sweep` tells it all results there are and asks for the next settings. What was proposed is
kept in the sweep's folder, so a setting keeps its name and values whatever is proposed later.
"""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cluster.active import look
from launch.ledger import Folder, read_json, score_of, write_json
from launch.sweeps.draws import Range, read_ranges
from launch.sweeps.settings import Guided, Named
from masksup.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study


def kept(home: Path) -> Named:
    """The settings that were proposed so far: (name, keys)."""
    return [(row["name"], row["keys"]) for row in read_json(home / "launch" / "guided.json").get("proposed", [])]


def keep(home: Path, proposed: Named) -> None:
    rows = [{"name": name, "keys": keys} for name, keys in proposed]
    write_json(home / "launch" / "guided.json", {"proposed": rows})


def propose(where: str, guided: Guided, home: Path) -> Named:
    """The settings of earlier calls, and new ones as far as `count` and `at_once` allow. Writes nothing."""
    found = kept(home)
    ranges = read_ranges(f"{where}: guided.keys", guided.keys)
    seeds = {name: [Folder(run) for run in sorted((home / name).glob("seed*"))] for name, _ in found}
    seen = look(folder for folders in seeds.values() for folder in folders)
    told = [(keys, *_told([(folder, seen[folder].active) for folder in seeds[name]])) for name, keys in found]
    room = min(guided.count - len(found), guided.at_once - sum(active for _, _, active in told))
    if room <= 0:
        return found
    study, asked = _study(where, guided.seed + len(found)), {key: _distribution(r) for key, r in ranges.items()}
    for keys, score, active in told:
        # What was proposed for other keys or ranges, before the file was changed, teaches nothing.
        if keys.keys() == ranges.keys() and all(ranges[key].holds(value) for key, value in keys.items()):
            _tell(study, asked, keys, score, active)
    for number in range(len(found), len(found) + room):
        values = study.ask(asked).params
        found.append((f"guided{number:03d}", {key: ranges[key].short(value) for key, value in values.items()}))
    return found


def _told(seeds: list[tuple[Folder, bool]]) -> tuple[float | None, bool]:
    """Mean score over the seeds of a setting that have one, and whether any seed, (folder, active), is under way."""
    under_way = any(active and not folder.result.exists() for folder, active in seeds)
    scores = [score for folder, _ in seeds if (score := score_of(read_json(folder.result))) is not None]
    return (statistics.fmean(scores) if scores and not under_way else None), under_way


def _study(where: str, seed: int) -> "Study":
    try:
        import optuna
    except ImportError:
        raise UserError(f"{where}: guided: found no Optuna here, expected the extra: pip install 'masksup[guided]'") \
            from None  # fmt: skip
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A setting under way counts as a bad one until it has a score, so that its neighbours are not all tried at once.
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _distribution(range_: Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if range_.kind == "choice":
        return CategoricalDistribution(range_.values)
    low, high = range_.values
    if range_.kind == "integer":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(float(low), float(high), log=range_.kind == "log")


def _tell(
    study: "Study", asked: dict[str, "BaseDistribution"], keys: dict[str, Any], score: float | None, active: bool
) -> None:
    """The score of an earlier setting; one under way stays open, and one that failed teaches nothing."""
    from optuna.trial import create_trial

    if active:
        study.enqueue_trial(keys)
        study.ask(asked)
    elif score is not None:
        study.add_trial(create_trial(params=keys, distributions=asked, value=score))
