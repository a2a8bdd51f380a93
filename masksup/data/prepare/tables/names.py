"""A table of ids and what they are called, such as class-descriptions.csv of Open Images."""

from dataclasses import dataclass, field
from pathlib import Path

from masksup.base.words import counted, listed
from masksup.data.prepare.tables.cells import read_table
from masksup.data.prepare.tables.words import LABEL_NAMES, plain
from masksup.errors import UserError


@dataclass
class Names:
    """What ids are called. Without a file, as they are."""

    file: Path | None = None
    called: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    nameless: dict[str, None] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, encoding: str | None) -> "Names":
        """The first column is the id, the second its name. UserError for fewer columns, or an id of two names."""
        table = read_table(file, encoding)
        called: dict[str, str] = {}
        for line, row in table.rows:
            if len(row) < 2 or not row[1]:
                raise UserError(f"{table.where(line)}: found one column, expected a label and its name")
            if plain(row[0]) in LABEL_NAMES:  # the header
                continue
            if called.setdefault(row[0], row[1]) != row[1]:
                raise UserError(
                    f"{table.where(line)}: found '{row[1]}' as the name of '{row[0]}', which is '{called[row[0]]}' "
                    "above; expected one name"
                )
        return cls(file, called)

    def of(self, label: str) -> str:
        """The name of a label; the label itself where it has none, which is kept for `warnings`."""
        name = self.called.get(label)
        if name is not None:
            self.used.add(label)
        elif self.file is not None:
            self.nameless[label] = None
        return label if name is None else name

    def warnings(self) -> list[str]:
        """What to say of labels without a name and of names of several labels. UserError where no label has a name."""
        if self.nameless and not self.used:
            first = next(iter(self.nameless))
            raise UserError(
                f"--names {self.file}: found no name for any label (first: '{first}'), expected rows of a label and "
                f"its name, such as '{first},NAME'"
            )
        said = []
        if self.nameless:
            said.append(
                f"{counted(len(self.nameless), 'label')} without a name in {self.file} (--names), called as they are: "
                f"{listed(list(self.nameless))}"
            )
        ids: dict[str, list[str]] = {}
        for label in sorted(self.used):
            ids.setdefault(self.called[label], []).append(label)
        shared = [f"'{name}' ({' and '.join(of)})" for name, of in ids.items() if len(of) > 1]
        if shared:
            said.append(f"labels of one name are one class: {listed(shared)}")
        return said
