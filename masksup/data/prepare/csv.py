"""Tables -> index: one row an image, whole images, EXIF orientation applied.

Two forms. Label lists: a column of images and one of labels joined by '|' (the header may be missing). One column a
class: header `image,<class>,...`, values 1 present, 0 absent, -1 ignored. `tables/` has the rules, a file each.
"""

from pathlib import Path
from typing import Literal

from masksup.data.prepare.options import existing_file, named_splits, split_of
from masksup.data.prepare.tables.cells import Table, read_table
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.columns import ColumnRules, Columns, columns_of
from masksup.data.prepare.tables.contents import contents_of, images_folder
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.joined import Cell, refuse_cut_lists, refuse_vectors, separator_of, split_labels
from masksup.data.prepare.tables.labelled import Labelled, Row, set_uncertain
from masksup.data.prepare.tables.marks import Meaning, labelled_by_columns, meaning
from masksup.data.prepare.tables.split_column import divided
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_ENDINGS = (".csv", ".tsv", ".parquet")


def prepare_csv(
    root: Path,
    *,
    csv: list[str] | None = None,
    split: list[str] | None = None,
    images: str | None = None,
    suffix: str | None = None,
    image_column: str | None = None,
    labels_column: list[str] | None = None,
    ignore_column: list[str] | None = None,
    split_column: str | None = None,
    strip: str | None = None,
    separator: str | None = None,
    present: list[str] | None = None,
    absent: list[str] | None = None,
    ignored: list[str] | None = None,
    uncertain: Literal["ignore", "present", "absent"] = "ignore",
    classes: str | None = None,
    drop_class: list[str] | None = None,
    none: list[str] | None = None,
    same_case: bool = False,
    encoding: str | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Images below `root` (or its folder `images`) listed in tables: CSV, TSV, semicolons, Parquet.

    Splits: each file of `csv` under its stem, each NAME=FILE of `split`; default: every table in `root`. A table with
    `split_column` becomes a split for each of its values.
    Classes: `classes` (comma list or file), else the columns of the header, else the labels found, sorted.
    """
    find = FindImages(images_folder(root, images), suffix, strip)
    files = table_files(root, csv or [], split or [])
    of_classes = ClassRules(classes, tuple(drop_class or ()), tuple(none or ()), same_case)
    known = of_classes.chosen(root)
    rules = ColumnRules(
        image_column, tuple(labels_column or ()), tuple(ignore_column or ()), separator_of(separator), known
    )
    read = {name: read_table(file, encoding) for name, file in files.items()}
    read = divided(read, split_column, rules.ignore)
    tables = labelled_of(read, rules, find, meaning(absent or [], ignored or [], present or []))
    for table in tables.values():
        set_uncertain(table, uncertain)
    return contents_of("csv", tables, find, root, of_classes, skip_broken=skip_broken)


def prepare_train_and_test(root: Path, train: str, test: str) -> list[IndexContent]:
    """Two tables NAME=FILE of images below `root`, of which the first alone says what classes there are.

    UserError for a class of the test table that the training table does not have: it could not be learnt.
    """
    find = FindImages(images_folder(root, None))
    read = {name: read_table(file) for name, file in table_files(root, [], [train, test]).items()}
    tables = labelled_of(read, ColumnRules(), find, meaning())
    return contents_of("csv", tables, find, root, ClassRules(), skip_broken=False, first_decides=True)


def table_files(root: Path, listed: list[str], split: list[str], leave_out: Path | None = None) -> dict[str, Path]:
    """{split: its table}. UserError where there is none."""
    wanted = [split_of(file, "--csv") for file in listed] + split
    if not wanted:
        files = sorted(path.name for path in root.iterdir() if path.suffix.casefold() in _ENDINGS and path != leave_out)
        wanted = [split_of(name, f"--root {root}") for name in files if not name.startswith(".")]
    if not wanted:
        raise UserError(f"--root {root}: found no .csv file, expected some or --csv FILE or --split NAME=FILE")
    return {name: existing_file(file or f"{name}.csv", root) for name, file in named_splits(wanted).items()}


def labelled_of(
    read: dict[str, Table], rules: ColumnRules, find: FindImages, values: Meaning
) -> dict[str, Labelled]:  # fmt: skip
    """The rows of each table in the order of `read`; what marks mean is settled for all of them together."""
    columns = {name: columns_of(table, rules, find.exists) for name, table in read.items()}
    marked = {name: (read[name], found) for name, found in columns.items() if not found.labels}
    tables = labelled_by_columns(marked, values) if marked else {}
    for name, found in columns.items():
        if found.labels:
            tables[name] = _listed(read[name], found, rules)
    return {name: tables[name] for name in read}


def _listed(table: Table, columns: Columns, rules: ColumnRules) -> Labelled:
    cells = [Cell(line, row[c]) for line, row in columns.rows for c in columns.labels]
    listed = split_labels(table, cells, rules.separator, rules.known)
    if rules.known is None:
        refuse_vectors(table, cells, listed)
        refuse_cut_lists(table, cells, listed)
    rows = [Row(line, row[columns.image], {}) for line, row in columns.rows]
    for number, names in enumerate(listed):
        rows[number // len(columns.labels)].labels |= dict.fromkeys(names, 1)
    return Labelled(table.file, None, rows, [*columns.warnings], table.where)
