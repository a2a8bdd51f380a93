"""Copies of the code: one of the same content for all runs beside each other, and each stays whole by itself."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from launch.cluster import snapshot
from launch.watch.status import find_runs

WHOLE = {"launch/ledger.py": "# launch/ledger.py\n", "masksup/cli.py": "# masksup/cli.py\n"}
CHANGED = "# changed in place\n"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of two files."""
    checkout = tmp_path / "checkout"
    for name in ("masksup/cli.py", "launch/ledger.py"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).write_text(f"# {name}\n")
    files = sorted(checkout.rglob("*.py"))
    monkeypatch.setattr(snapshot, "_sources", lambda: [(file, file.relative_to(checkout)) for file in files])
    return checkout


def submitted(runs: Path, name: str) -> Path:
    home = runs / name / "launch"
    home.mkdir(parents=True)
    return snapshot.snapshot(home)


def change_in_place(copy: Path) -> None:
    """As an editor that writes into the file, and so into each of its names."""
    changed = copy / "masksup" / "cli.py"
    changed.chmod(0o644)
    changed.write_text(CHANGED)


def contents(copy: Path) -> dict[str, str]:
    return {str(file.relative_to(copy)): file.read_text() for file in copy.rglob("*.py")}


def inodes(copy: Path) -> list[int]:
    return [file.stat().st_ino for file in sorted(copy.rglob("*.py"))]


def test_runs_beside_each_other_share_the_files_of_equal_code(sources: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first, second = submitted(runs, "a"), submitted(runs, "b")
    whole = contents(first)
    assert whole == WHOLE
    assert inodes(first) == inodes(second)
    assert not {file.stat().st_ino for file in sources.rglob("*.py")} & set(inodes(first)), "a checkout is edited"
    assert {file.stat().st_mode & 0o222 for file in first.rglob("*.py")} == {0}
    (sources / "masksup" / "cli.py").write_text("# newer\n")
    third = submitted(runs, "c")
    assert third.name != first.name
    assert not set(inodes(third)) & set(inodes(first))
    shutil.rmtree(runs / "a")
    assert contents(second) == whole
    assert contents(third)["masksup/cli.py"] == "# newer\n"
    assert inodes(submitted(tmp_path / "elsewhere", "d")) != inodes(third)
    assert find_runs(runs) == []


def test_what_a_neighbour_has_changed_is_not_taken(sources: Path, tmp_path: Path) -> None:
    first = submitted(tmp_path / "runs", "a")
    change_in_place(first)
    (first / "launch" / "ledger.py").unlink()
    second = submitted(tmp_path / "runs", "b")
    assert contents(second) == WHOLE


def test_what_can_still_be_changed_is_not_shared(sources: Path, tmp_path: Path) -> None:
    first = submitted(tmp_path / "runs", "a")
    (first / "masksup" / "cli.py").chmod(0o644)
    (first / "launch" / "ledger.py").unlink()
    (first / "launch" / "ledger.py").symlink_to(sources / "launch" / "ledger.py")
    second = submitted(tmp_path / "runs", "b")
    change_in_place(first)
    (sources / "launch" / "ledger.py").write_text("# newer\n")
    assert contents(second) == WHOLE
    assert not any(file.is_symlink() for file in second.rglob("*.py"))


def test_a_neighbour_that_changes_while_it_is_shared_is_not_taken(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, link = submitted(tmp_path / "runs", "a"), os.link

    def change_and_link(shared: Path, target: Path, **options: bool) -> None:
        if shared.name == "cli.py":
            change_in_place(first)
        link(shared, target, **options)

    monkeypatch.setattr(os, "link", change_and_link)
    assert contents(submitted(tmp_path / "runs", "b")) == WHOLE


def test_a_copy_that_was_changed_is_put_right_for_its_run_alone(sources: Path, tmp_path: Path) -> None:
    first, second = submitted(tmp_path / "runs", "a"), submitted(tmp_path / "runs", "b")
    change_in_place(first)
    (second / "launch" / "ledger.py").unlink()
    assert contents(second) != WHOLE, "they are the same files"
    assert snapshot.snapshot(second.parent) == second
    assert contents(second) == WHOLE
    assert contents(first)["masksup/cli.py"] == CHANGED
    assert sorted(path.name for path in second.rglob("*")) == ["COMMIT", "cli.py", "launch", "ledger.py", "masksup"]


def test_a_full_disk_leaves_no_part_of_a_copy(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(OSError, match="No space"):
        submitted(tmp_path / "runs", "a")
    assert list((tmp_path / "runs" / "a" / "launch").iterdir()) == []


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o077, 0o700, 0o400), (0o027, 0o750, 0o440), (0o022, 0o755, 0o444)]
)
def test_a_copy_is_as_readable_as_the_umask_says(
    umask: int, folder: int, file: int, sources: Path, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        copy = submitted(tmp_path / "runs", "a")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in copy.rglob("*") if path.is_dir()}
    assert modes | {copy.stat().st_mode & 0o777} == {folder}
    assert {path.stat().st_mode & 0o777 for path in copy.rglob("*.py")} == {file}


def test_code_of_another_user_is_copied(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = submitted(tmp_path / "runs", "a")
    monkeypatch.setattr(os, "getuid", lambda: first.stat().st_uid + 1)
    assert not set(inodes(submitted(tmp_path / "runs", "b"))) & set(inodes(first))


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_file_system_without_hard_links_gets_copies(
    refusal: int, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", refuse)
    first, second = submitted(tmp_path / "runs", "a"), submitted(tmp_path / "runs", "b")
    assert contents(first) == contents(second)
    assert not set(inodes(first)) & set(inodes(second))
