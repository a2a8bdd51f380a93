"""Cells of columns, one a class -> labels: what 1, x, nothing and -1 mean, which is never guessed where it is open.

- A cell is present, absent or unknown by a list of words (`words.VALUES`), or by --present, --absent and --ignored.
- An empty cell is absent where no cell of the tables says so otherwise. Where cells say 0, too, it may as well be
  unknown: refused until --absent or --ignored names it ("blank").
- -1 is unknown. Where a class has -1 but never 0, it looks like absent: refused until --absent or --ignored names it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from masksup.base.words import counted
from masksup.data.prepare.tables.cells import Table
from masksup.data.prepare.tables.columns import Columns
from masksup.data.prepare.tables.labelled import Labelled, Row
from masksup.data.prepare.tables.words import VALUES, value_word
from masksup.errors import UserError

BLANK, MINUS = "", "-1"
_SHARE = re.compile(r"0?[.,]\d+|\d+([.,]\d+)? ?%")


@dataclass
class Meaning:
    """What each value says: 1 present, 0 absent, -1 unknown."""

    of: dict[str, int]
    settled: set[str]
    """Values that the user has named."""
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Seen:
    """Of all tables: how often each value stands in each class, and where a class has it first."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def of(self, value: str) -> int:
        return sum(counts[value] for counts in self.counts.values())


def meaning(absent: Sequence[str] = (), ignored: Sequence[str] = (), present: Sequence[str] = ()) -> Meaning:
    """Of the words that are known and those that the user names ("blank" is the empty cell)."""
    of = dict(VALUES)
    named = [("--absent", 0, absent), ("--ignored", -1, ignored), ("--present", 1, present)]
    settled: dict[str, str] = {}
    for option, label, values in named:
        for value in values:
            word = BLANK if value.casefold() == "blank" else value_word(value)
            if settled.setdefault(word, option) != option:
                raise UserError(f"{option}: found '{value}', which {settled[word]} names, too; expected it in one")
            of[word] = label
    return Meaning(of, set(settled))


def labelled_by_columns(tables: dict[str, tuple[Table, Columns]], said: Meaning) -> dict[str, Labelled]:
    """The labels of tables with a column for each class. UserError for a cell without meaning, or an open one."""
    seen = _survey(tables, said)
    _settle_minus(tables, seen, said)
    _settle_blank(tables, seen, said)
    labelled = {name: _labelled(table, columns, said) for name, (table, columns) in tables.items()}
    next(iter(labelled.values())).warnings += said.warnings
    return labelled


def _survey(tables: dict[str, tuple[Table, Columns]], said: Meaning) -> _Seen:
    seen = _Seen()
    allowed = {*said.of, BLANK, MINUS}
    for table, columns in tables.values():
        for name, c in columns.classes.items():
            found = Counter(row[c] for _, row in columns.rows)
            for cell, count in found.items():
                word = value_word(cell)
                if word not in allowed:
                    _refuse_cell(table, columns, name, c, cell)
                seen.counts.setdefault(name, Counter())[word] += count
    return seen


def _refuse_cell(table: Table, columns: Columns, name: str, c: int, cell: str) -> None:
    line = next(line for line, row in columns.rows if row[c] == cell)
    settles = f"--present, --absent or --ignored '{cell[:60]}' says what it means"
    if _SHARE.fullmatch(cell):
        settles = "of a share, write 1 from that share on that counts as present, and 0 below it"
    raise UserError(
        f"{table.where(line)}: found '{cell[:60]}' for class '{name}', expected 1 (present), 0 (absent) or -1 (ignored)"
        f"; --ignore-column '{name}' leaves the column out; {settles}"
    )


def _settle_minus(tables: dict[str, tuple[Table, Columns]], seen: _Seen, said: Meaning) -> None:
    zeros = {
        name: sum(n for word, n in counts.items() if said.of.get(word) == 0) for name, counts in seen.counts.items()
    }
    if MINUS in said.settled:
        if said.of[MINUS] == 0 and "0" not in said.settled and (both := seen.of("0")):
            said.warnings.append(
                f"-1 and 0 are both absent here ({both:,} labels are 0); --ignored 0 if 0 means difficult, as in VOC"
            )
        return
    said.of[MINUS] = -1
    minus, total = seen.of(MINUS), sum(sum(counts.values()) for counts in seen.counts.values())
    settles = "--absent -1 if that means absent, --ignored -1 if it means that nobody knows"
    without = [name for name, counts in seen.counts.items() if counts[MINUS] and not zeros[name]]
    file = next(iter(tables.values()))[0].file
    if without:
        raise UserError(
            f"{file}: found -1 but never 0 for class '{without[0]}' ({len(without)} of "
            f"{counted(len(seen.counts), 'class')}); {settles}"
        )
    if 2 * minus > total and sum(zeros.values()) < sum(counts["1"] for counts in seen.counts.values()):
        raise UserError(f"{file}: found -1 in {100 * minus / total:.0f} % of the labels, and fewer 0 than 1; {settles}")
    if 2 * minus > total:
        said.warnings.append(f"more than half of all labels are -1, which means ignored; {settles}")


def _settle_blank(tables: dict[str, tuple[Table, Columns]], seen: _Seen, said: Meaning) -> None:
    if BLANK in said.settled or not (blanks := seen.of(BLANK)):
        return
    absent = sum(n for counts in seen.counts.values() for word, n in counts.items() if word and said.of[word] == 0)
    if absent:
        table, columns = next(pair for pair in tables.values() if _first_blank(pair[1]))
        line, name = _first_blank(columns) or (0, "")
        raise UserError(
            f"{table.where(line)}: found '' for class '{name}', where other cells say 0; --absent blank if an empty "
            "cell means absent, --ignored blank if it means that nobody knows"
        )
    said.of[BLANK] = 0
    said.warnings.append(
        f"empty cells ({blanks:,}) mean absent, because no cell is 0; --ignored blank makes them unknown"
    )


def _first_blank(columns: Columns) -> tuple[int, str] | None:
    return next(((line, name) for line, row in columns.rows for name, c in columns.classes.items() if not row[c]), None)


def _labelled(table: Table, columns: Columns, said: Meaning) -> Labelled:
    values: dict[str, int] = {}  # of cells as they are, each looked up once
    rows = []
    for line, row in columns.rows:
        labels = {}
        for name, c in columns.classes.items():
            cell = row[c]
            value = values.get(cell)
            if value is None:
                value = values[cell] = said.of[value_word(cell)]
            if value:
                labels[name] = value
        rows.append(Row(line, row[columns.image], labels))
    return Labelled(table.file, tuple(columns.classes), rows, [*columns.warnings], table.where)
