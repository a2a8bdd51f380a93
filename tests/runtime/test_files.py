"""Small files are whole or not there, whoever else writes them at the same time."""

import os
import stat
import threading
from pathlib import Path

import pytest

from masksup.base.files import write_atomically, written_whole


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Each step of one writer between any two of another: both end well, and the last to end is read."""
    file = tmp_path / "runs.csv"
    with written_whole(file) as mine:
        mine.write_text("mine")
        with written_whole(file) as other:
            other.write_text("other")
        assert file.read_text() == "other"
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_threads_that_write_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    file, problems = tmp_path / "runs.csv", []
    text = {str(number) * 10_000 for number in range(4)}

    def write(one: str) -> None:
        try:
            for _ in range(25):
                write_atomically(file, one)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(one,)) for one in text]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert file.read_text() in text
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["ü" * 120 + ".json", "x" * 255])
def test_a_name_as_long_as_a_file_system_allows_is_written(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, "whole")
    assert (tmp_path / name).read_text() == "whole"


def test_a_file_is_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
