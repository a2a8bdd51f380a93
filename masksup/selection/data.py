"""The images of a search: indexes that are there, or made of tables; the test part is compared, never looked at."""

import re
from pathlib import Path

from masksup.base.words import counted, listed
from masksup.data.index import Index, open_index
from masksup.data.prepare.csv import prepare_csv, prepare_train_and_test
from masksup.data.prepare.options import SPLIT_NAME
from masksup.data.prepare.table import print_table
from masksup.data.split import refuse_other_classes, refuse_other_range, samples_in_both, whole
from masksup.data.write_index import hash_of, write_index
from masksup.errors import UserError
from masksup.selection import CHOICES
from masksup.selection.search import journal_of

_OWN = ("csv", "root", "test", "data")  # options of masksup auto that a message about a table names


def indexes(
    data: Path | None, csv: Path | None, root: Path | None, test: Path | None, out: Path
) -> tuple[Index, Index | None]:
    """The training and the test part. UserError where their classes differ, or images are in both.

    Tables become indexes below `out`; where these are there already, they are made again and have to be the same.
    """
    if data is not None:
        if test is not None and test.suffix == ".csv":
            raise UserError(f"--test {test}: found a table, but --data is an index; expected an index for both")
        train, tested = open_index(data), open_index(test) if test is not None else None
    else:
        assert csv is not None
        assert root is not None
        if test is not None and test.is_dir():
            raise UserError(f"--test {test}: found a folder, but --csv is a table; expected a table for both")
        train, tested = _from_tables(csv, root, test, out / "data")
    if tested is not None:
        refuse_other_classes("--test", tested, train.classes, f"in {train.folder}")
        refuse_other_range("--test", tested, train.pixel_range, f"in {train.folder}")
        shared = samples_in_both(whole(tested), whole(train))
        if len(shared):
            raise UserError(
                f"--test: {len(shared)} of {counted(len(tested), 'sample')} lie in images that are trained on (such as "
                f"{tested.where(int(shared[0]))}), so their score would mean nothing"
            )
    return train, tested


def _from_tables(csv: Path, root: Path, test: Path | None, out: Path) -> tuple[Index, Index | None]:
    splits = _named(csv, test)
    try:
        contents = prepare_csv(root, split=splits) if test is None else prepare_train_and_test(root, *splits)
    except UserError as error:
        raise UserError(f"{error}{_where_to_say(str(error))}") from None
    print_table(contents)
    if (out.parent / CHOICES).exists():  # before anything is written: the runs that are there are of its index
        tested = hash_of(contents[1]) if test is not None else None
        journal_of(out.parent, {"index": hash_of(contents[0]), "test": tested})
    written = [write_index(out / content.split, content) for content in contents]
    return written[0], written[1] if test is not None else None


def _named(csv: Path, test: Path | None) -> list[str]:
    """NAME=FILE of each table, by its file where that can be the name of a split and is not taken."""
    given = [(csv, "train"), *([(test, "test")] if test is not None else [])]
    names = [file.stem if SPLIT_NAME.fullmatch(file.stem) else role for file, role in given]
    if len(set(names)) < len(names):  # of two folders
        names[1] += "-test"
    return [f"{name}={file}" for name, (file, _) in zip(names, given)]


def _where_to_say(message: str) -> str:
    """Where a message names options that `masksup auto` does not have: the command that has them."""
    options = [f"--{word}" for word in re.findall(r"(?<!\S)--([a-z][a-z-]+)", message) if word not in _OWN]
    if not options:
        return ""
    named = listed(list(dict.fromkeys(options)))
    return f"; masksup prepare csv has {named}, and masksup auto --data takes the index that it writes"
