"""A sweep file: which settings it asks for, each with a name that stays the same when the file grows."""

import hashlib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from launch.sweeps.draws import Draws, Rules, drawn
from masksup.config.load import load_config
from masksup.config.messages import schema_keys
from masksup.config.schema import Config
from masksup.config.yaml_text import read_yaml, yaml_inline
from masksup.errors import UserError, nearest

_LONGEST_NAME = 80
_TAKEN = ("launch", "results.csv", "results.txt")
Count = Annotated[int, Field(ge=1)]
Named = list[tuple[str, dict[str, Any]]]
"""(name of a setting, the keys it changes)"""


class Guided(BaseModel):
    """`guided`: a search by Optuna's TPE for the highest mAP on the evaluation part."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    count: Count
    """Settings to try in all."""
    at_once: Count = 4
    """So many wait or run at a time; fewer know more of each other."""
    seed: int = 0
    keys: Rules
    """Ranges, as in `random`."""


class Halving(BaseModel):
    """`halving`: stop hopeless settings early, by the evaluation's mAP (asynchronous successive halving)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: list[float]
    """At these epochs settings are compared, in rising order."""
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of those that came to such an epoch that may go on."""
    at_least: Count = 3
    """So many must have come there before any is stopped."""


class SweepFile(BaseModel):
    """configs/sweeps/*.yaml: the settings are those of `grid`, `list`, `random` and `guided` together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base: str
    """Configuration that the settings change, relative to this file."""
    set: dict[str, Any] = {}
    """Keys that all settings change alike."""
    grid: dict[str, list[Any]] = {}
    """Key -> values: every combination is a setting."""
    listed: list[dict[str, Any]] = Field(default=[], alias="list")
    """Settings written out: keys and values, and `name`."""
    random: Draws | None = None
    guided: Guided | None = None
    repeat: Count | list[int] = 1
    """Seeds of each setting: so many from that of `base` on, or these."""
    parallel: Count | None = None
    """How many run at once; none: the site's `array_parallel`."""
    resources: dict[str, Any] = {}
    """What a run asks of the cluster, over the site's file."""
    halving: Halving | None = None


@dataclass(frozen=True)
class Setting:
    """One run of a sweep."""

    name: str
    """Of the setting, without the seed."""
    seed: int
    overrides: tuple[str, ...]
    config: Config

    @property
    def folder(self) -> str:
        return f"{self.name}/seed{self.seed}"


def read_sweep(path: Path) -> SweepFile:
    """The file, checked. UserError naming the key."""
    tree = read_yaml(path)
    try:
        return SweepFile.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            raise UserError(f"{path}: {key}: unknown key; {nearest(key, _keys())}") from None
        if problem["type"] == "missing":
            raise UserError(f"{path}: {key}: not set, and it has no default") from None
        raise UserError(f"{path}: {key}: found {problem['input']!r}; {problem['msg'].lower()}") from None


def _keys() -> list[str]:
    return [field.alias or name for name, field in SweepFile.model_fields.items()]


def settings(path: Path, guided: Named | None = None) -> list[Setting]:
    """All runs of a sweep file, checked one by one; their order and names do not depend on what was run before.

    guided: the settings that a search has proposed so far.
    """
    sweep = read_sweep(path)
    if isinstance(sweep.repeat, list) and (not sweep.repeat or len(set(sweep.repeat)) < len(sweep.repeat)):
        raise UserError(f"{path}: repeat: found {sweep.repeat}, expected a number of seeds or a list of different ones")
    base = path.parent / sweep.base
    named: list[tuple[str, dict[str, Any]]] = []
    for values in itertools.product(*_columns(path, sweep)) if sweep.grid else ():
        keys = dict(zip(sweep.grid, values))
        named.append((_name(keys), keys))
    for number, entry in enumerate(sweep.listed):
        keys = {key: value for key, value in entry.items() if key != "name"}
        name = str(entry.get("name") or _name(keys))
        if not re.fullmatch(r"[\w=,+-][\w.=,+-]{0,79}", name):
            raise UserError(
                f"{path}: list.{number}.name: found {name!r}, expected letters, digits and _.=,+-, and no dot first"
            )
        if name in _TAKEN:
            raise UserError(f"{path}: list.{number}.name: found {name!r}, which the sweep's folder uses itself")
        named.append((name, keys))
    named += drawn(str(path), sweep.random) if sweep.random else []
    named += guided or []
    if not named:
        named = [("base", {})]
    _refuse_twice(path, [name for name, _ in named])
    return [setting for name, keys in named for setting in _repeated(path, sweep, base, name, keys)]


def _columns(path: Path, sweep: SweepFile) -> list[list[Any]]:
    for key, values in sweep.grid.items():
        if not values:
            raise UserError(f"{path}: grid.{key}: found no value, expected a list of some")
    return list(sweep.grid.values())


def _repeated(path: Path, sweep: SweepFile, base: Path, name: str, keys: dict[str, Any]) -> list[Setting]:
    overrides = tuple(f"{key}={yaml_inline(value)}" for key, value in {**sweep.set, **keys}.items())
    try:
        first = load_config(base, overrides)[0]
        seeds = _seeds(sweep.repeat, first.seed)
        return [
            Setting(name, seed, (*overrides, f"seed={seed}"), load_config(base, (*overrides, f"seed={seed}"))[0])
            for seed in seeds
        ]
    except UserError as error:
        raise UserError(f"{path}: setting '{name}': {error}") from None


def _seeds(repeat: int | list[int], first: int) -> list[int]:
    if isinstance(repeat, int):
        return list(range(first, first + repeat))
    return repeat


def _short(key: str) -> str:
    """The last part of a key of the configuration where no other key ends so; never a matter of the sweep's other keys,
    so that a name stays when the file grows."""
    if key in schema_keys():
        last = _last(key)
        return last if sum(_last(other) == last for other in schema_keys()) == 1 else key.removesuffix(".name")
    return ".".join(key.split(".")[-2:])  # an option of a part: head.heads, method.weight


def _last(key: str) -> str:
    # model.head.name chooses a head: `head=csra` says more than `name=csra`
    return key.removesuffix(".name").rpartition(".")[2]


def _name(keys: dict[str, Any]) -> str:
    name = ",".join(f"{_short(key)}={_value(value)}" for key, value in keys.items()) or "base"
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(yaml.safe_dump(keys, sort_keys=True).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}-{digest}"


def _value(value: Any) -> str:
    text = yaml_inline(value)
    return re.sub(r"[^\w.+-]+", "-", text).strip("-") or "none"


def _refuse_twice(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the setting '{twice[0]}' stands twice; drop one, or give it another `name`")
