"""Which classes there are: those of the tables, less what the user drops, and as the user spells and selects them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from masksup.base.words import counted
from masksup.data.prepare.options import class_list, require_classes
from masksup.data.prepare.tables.labelled import Labelled, Row
from masksup.data.prepare.tables.words import same_but_case, seems_nothing
from masksup.errors import UserError, nearest

_SHOWN = 8


@dataclass(frozen=True)
class ClassRules:
    """What the user says of classes. `classes`: their order, and a selection; a list or a file."""

    classes: str | None = None
    drop: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    same_case: bool = False

    def chosen(self, root: Path) -> tuple[str, ...] | None:
        return class_list(self.classes, root) if self.classes else None


def settle_classes(
    tables: list[Labelled], rules: ClassRules, root: Path, first_decides: bool = False
) -> tuple[str, ...]:
    """The classes in their order; the tables are changed to hold labels of these alone.

    `first_decides`: the first table says what classes there are, and another label elsewhere is a UserError.
    """
    chosen = rules.chosen(root)
    _forget(tables, rules.none, "--none", "label")
    _forget(tables, rules.drop, "--drop-class", "class")
    _same_case(tables, rules, chosen)
    _warn_of_nothing(tables, chosen)
    if chosen is not None:
        _select(tables, chosen)
        return chosen
    names = _found(tables[:1] if first_decides else tables)
    for table in tables:
        _refuse_others(table, names, "the training table" if first_decides else "another split")
    return names


def several(values: Iterable[str], known: Collection[str]) -> list[str]:
    """Names as they are given, each by itself or joined by commas, where that is not a name itself."""
    return [part.strip() for value in values for part in ([value] if value in known else value.split(","))]


def _found(tables: list[Labelled]) -> tuple[str, ...]:
    for table in tables:
        if table.columns is not None:
            return require_classes(table.columns, str(table.file))
    found = {label for table in tables for row in table.rows for label in row.labels}
    return require_classes(tuple(sorted(found)), str(tables[0].file))


def _names(tables: Iterable[Labelled]) -> Counter[str]:
    """How many samples each label that occurs has."""
    counts: Counter[str] = Counter()
    for table in tables:
        counts.update(dict.fromkeys(table.columns or (), 0))
        for row in table.rows:
            for name, value in row.labels.items():
                counts[name] += value == 1
    return counts


def _rename(tables: list[Labelled], names: dict[str, str | None]) -> None:
    """Give labels another name, or None: leave them out. Of two that become one, present wins, then ignored."""
    for table in tables:
        if table.columns is not None:
            renamed = (names.get(name, name) for name in table.columns)
            table.columns = tuple(dict.fromkeys(name for name in renamed if name is not None))
        for row in table.rows:
            if row.labels.keys() & names.keys():
                row.labels = _renamed(row, names)
            if row.boxes is not None:
                row.boxes = [
                    box._replace(label=new) for box in row.boxes if (new := names.get(box.label, box.label)) is not None
                ]


def _renamed(row: Row, names: dict[str, str | None]) -> dict[str, int]:
    labels: dict[str, int] = {}
    for name, value in row.labels.items():
        new = names.get(name, name)
        if new is not None:
            labels[new] = max(value, labels.get(new, value))
    return labels


def _forget(tables: list[Labelled], names: Iterable[str], option: str, what: str) -> None:
    known = _names(tables) if names else Counter[str]()
    gone: dict[str, str | None] = {}
    for name in several(names, known):
        same = [label for label in known if label == name or same_but_case(label) == same_but_case(name)]
        if not same:
            raise UserError(f"{option}: found no {what} '{name}'; {nearest(name, known)}")
        gone |= dict.fromkeys(same)
    if not gone:
        return
    if option == "--none":
        for table in tables:
            both = [row for row in table.rows if len(on := _present(row)) > 1 and on & gone.keys() and on - gone.keys()]
            if both:
                first = table.where(both[0])
                table.warnings.append(
                    f"{counted(len(both), 'row')} of no label (--none) with others, which count (first: {first})"
                )
    _rename(tables, gone)


def _present(row: Row) -> set[str]:
    return {name for name, value in row.labels.items() if value == 1}


def _same_case(tables: list[Labelled], rules: ClassRules, chosen: tuple[str, ...] | None) -> None:
    counts = _names(tables)
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(same_but_case(name), []).append(name)
    for name in chosen or ():
        if (group := groups.get(same_but_case(name))) and name not in group:
            group.append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    if rules.same_case:
        names: dict[str, str | None] = {}
        for group in alike:
            # The spelling of --classes, else the usual one, else the first.
            best = next((name for name in chosen or () if name in group), max(group, key=lambda name: counts[name]))
            names |= {name: best for name in group if name != best}
        _rename(tables, names)
        if names:
            shown = ", ".join(f"'{old}' as '{new}'" for old, new in list(names.items())[:_SHOWN])
            tables[0].warnings.append(f"{counted(len(names), 'spelling')} taken as the same class: {shown}")
    elif alike := [group for group in alike if chosen is None or len(set(group) & set(chosen)) > 1]:
        shown = "; ".join(" and ".join(f"'{name}' ({counts[name]:,})" for name in group) for group in alike[:_SHOWN])
        tables[0].warnings.append(f"classes that differ in writing only: {shown}; --same-case makes them one")


def _warn_of_nothing(tables: list[Labelled], chosen: tuple[str, ...] | None) -> None:
    for name, count in _names(tables).items():
        if seems_nothing(name) and (chosen is None or name in chosen):
            tables[0].warnings.append(
                f"'{name}' becomes a class ({counted(count, 'sample')}); --none '{name}' makes it 'no label'"
            )


def _select(tables: list[Labelled], chosen: tuple[str, ...]) -> None:
    """Leave out what is not in --classes, counted. UserError for a label that is likely one of them, misspelt."""
    for table in tables:
        _refuse(table, chosen, _likely)
        if table.columns is not None:
            _refuse_missing(table, chosen, "--classes")
    known = set(chosen)
    counts = _names(tables)
    others = {name: count for name, count in counts.items() if name not in known}
    if others and len(others) == len(counts):
        raise UserError(
            f"--classes: found none of {', '.join(chosen[:3])}, ... in {tables[0].file}, expected some of its labels "
            f"({', '.join(list(others)[:3])}, ...)"
        )
    if others:
        shown = ", ".join(f"'{name}' ({count:,})" for name, count in list(others.items())[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        tables[0].warnings.append(f"{counted(len(others), 'class')} not in --classes left out: {shown}{more}")
        _rename(tables, dict.fromkeys(others))


def _refuse_others(table: Labelled, names: tuple[str, ...], origin: str) -> None:
    _refuse(table, names, lambda *_: f"; {origin} has no such label, so it cannot be learnt: leave it out here")
    if table.columns is not None:
        _refuse_missing(table, names, origin)


def _refuse_missing(table: Labelled, names: tuple[str, ...], origin: str) -> None:
    there = set(table.columns or ())
    missing = [name for name in names if name not in there]
    if missing:
        raise UserError(f"{table.file}, line 1: found no column '{missing[0]}', expected it as in {origin}")


def _refuse(table: Labelled, names: tuple[str, ...], hint: Callable[[str, tuple[str, ...]], str | None]) -> None:
    """UserError for the first unknown class of which `hint` has something to say, be it nothing."""
    known = set(names)
    places = [(f"{table.file}, line 1", name) for name in table.columns or ()]
    rows = ((table.where(row), name) for row in table.rows for name in row.labels if name not in known)
    told: set[str] = set()
    for where, name in (*places, *rows):
        if name in known or name in told:
            continue
        told.add(name)
        if (more := hint(name, names)) is not None:
            raise UserError(f"{where}: found the unknown class '{name}'; {nearest(name, names)}{more}")


def _likely(name: str, names: tuple[str, ...]) -> str | None:
    """What settles it where `name` is likely one of `names` written wrongly."""
    for other in names:
        if same_but_case(name) == same_but_case(other):
            return "; --same-case takes both as one"
        if len(name) > 2 and len(other) > 2 and _slip(name, other):
            return f"; --drop-class '{name}' leaves it out"
    return None


def _slip(name: str, other: str) -> bool:
    """Whether one letter too many, one too few or two exchanged make `other` of `name`."""
    short, long = sorted((name, other), key=len)
    if len(long) - len(short) == 1:
        return any(long[:i] + long[i + 1 :] == short for i in range(len(long)) if not long[i].isdigit())
    if len(long) != len(short):
        return False
    return any(
        name[:i] + name[i + 1] + name[i] + name[i + 2 :] == other and not name[i : i + 2].isdigit()
        for i in range(len(name) - 1)
    )
