"""CheXpert: train.csv, valid.csv and test.csv with a column for each of 14 observations -> index.

1.0 is present, 0.0 absent and -1.0 uncertain (`--uncertain`). An empty cell is what a report does not mention. It
counts as absent, as in the paper of the data set; `--ignored blank` takes it as unknown.
"""

import re
from pathlib import Path
from typing import Literal

from masksup.base.words import counted
from masksup.data.prepare.options import existing_file, named_splits
from masksup.data.prepare.tables.cells import Table, read_table
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.columns import Columns
from masksup.data.prepare.tables.contents import contents_of
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import set_uncertain
from masksup.data.prepare.tables.marks import labelled_by_columns, meaning
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
_TOP = re.compile(r"CheXpert-v1\.0[^/]*/")  # the paths of the tables begin so, of whichever size of the images


def prepare_chexpert(
    root: Path,
    *,
    split: list[str] | None = None,
    uncertain: Literal["ignore", "present", "absent"] = "ignore",
    ignored: list[str] | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    none: list[str] | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """The official splits train, valid and test, as far as they are there, or those of `split`, NAME or NAME=FILE."""
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected CheXpert (train.csv, valid.csv, train, valid)")
    inner = next((path.parent for path in sorted(root.glob("CheXpert-v1.0*/train.csv"))), root)
    base = root if (root / "train.csv").is_file() else inner
    present = [name for name in ("train", "valid", "test") if (base / f"{name}.csv").is_file()]
    wanted = named_splits(split or present or ["train"])
    read = {name: read_table(existing_file(file or f"{name}.csv", base)) for name, file in wanted.items()}
    said = meaning([] if "blank" in (ignored or []) else ["blank"], ["-1", *(ignored or [])])
    tables = labelled_by_columns({name: (table, _columns(table)) for name, table in read.items()}, said)
    for table in tables.values():
        set_uncertain(table, uncertain)
        for row in table.rows:
            row.image = _TOP.sub("", row.image, count=1)
    rules = ClassRules(classes, tuple(drop_class or ()), tuple(none or ()))
    return contents_of("chexpert", tables, FindImages(base), root, rules, skip_broken=skip_broken)


def _columns(table: Table) -> Columns:
    line, head = table.rows[0]
    if missing := [name for name in ("Path", *OBSERVATIONS) if name not in head]:
        raise UserError(
            f"{table.where(line)}: found the header '{','.join(head)[:80]}', expected a column '{missing[0]}', too"
        )
    for number, row in table.rows[1:]:
        if len(row) != len(head):
            raise UserError(
                f"{table.where(number)}: malformed CSV: found {counted(len(row), 'column')}, expected {len(head)}"
            )
    return Columns(head.index("Path"), (), {name: head.index(name) for name in OBSERVATIONS}, table.rows[1:])
