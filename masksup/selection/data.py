"""The images of a search: indexes that are there, or made of tables; the test part is compared, never looked at."""

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from masksup.base.files import file_sha256
from masksup.base.words import counted, listed
from masksup.data.index import Index, open_index
from masksup.data.prepare.csv import prepare_csv, prepare_train_and_test
from masksup.data.prepare.options import SPLIT_NAME
from masksup.data.prepare.table import print_table
from masksup.data.split import refuse_other_classes, refuse_other_range, samples_in_both, whole
from masksup.data.write_index import hash_of, write_index
from masksup.errors import UserError
from masksup.saved.open import is_run, open_trained
from masksup.selection.decided import as_options
from masksup.selection.search import journal_of

_LOCK = ".auto.lock"
_OWN = ("csv", "root", "test", "data")  # options of masksup auto that a message about a table names


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep other searches out of the folder until the end. UserError where one is at work there."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--out {out}: another masksup auto is at work in this folder; wait for it, or take another --out"
            ) from None
        except OSError:
            pass  # no locks on this file system
        try:
            yield
        finally:
            (out / _LOCK).unlink(missing_ok=True)


@contextmanager
def taken_back(out: Path) -> Iterator[None]:
    """Where the search is refused, remove what it has written: the folders that were not there before."""
    ours = [folder for folder in (out / "data", out / "rungs") if not folder.exists()]
    above = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    except UserError as error:
        for folder in ours:
            shutil.rmtree(folder, ignore_errors=True)
        if out in above:
            (out / _LOCK).unlink(missing_ok=True)
        for folder in above:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise UserError(as_options(str(error))) from None


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
    hashes = [hash_of(content) for content in contents]
    # Before anything is written: the runs of a search that is there are of its index.
    journal_of(out.parent, {"index": hashes[0], "test": hashes[1] if test is not None else None})
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


def weights_sha256(weights: str) -> str | None:
    """What the path of --weights holds: a file, or a run by its newest weights. None of a name."""
    path = Path(weights)
    if path.is_file():
        return file_sha256(path)
    return open_trained(path).sha256 if is_run(path) else None
