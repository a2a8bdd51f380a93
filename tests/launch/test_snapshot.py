"""Copies of the code: one of the same content for all runs beside each other, and each stays whole by itself."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from launch.cluster import snapshot
from launch.watch.status import find_runs


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


def contents(copy: Path) -> dict[str, str]:
    return {str(file.relative_to(copy)): file.read_text() for file in copy.rglob("*.py")}


def inodes(copy: Path) -> list[int]:
    return [file.stat().st_ino for file in sorted(copy.rglob("*.py"))]


def test_runs_beside_each_other_share_the_files_of_equal_code(sources: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first, second = submitted(runs, "a"), submitted(runs, "b")
    whole = contents(first)
    assert whole == {"launch/ledger.py": "# launch/ledger.py\n", "masksup/cli.py": "# masksup/cli.py\n"}
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
    changed = first / "masksup" / "cli.py"
    changed.chmod(0o644)
    changed.write_text("# changed in place\n")
    (first / "launch" / "ledger.py").unlink()
    second = submitted(tmp_path / "runs", "b")
    assert contents(second) == {"launch/ledger.py": "# launch/ledger.py\n", "masksup/cli.py": "# masksup/cli.py\n"}


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
