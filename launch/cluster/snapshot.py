"""The code of a run, copied when it is submitted: editing the checkout changes no job that waits or comes back."""

import hashlib
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

import launch
import masksup
from masksup.base.commit import COMMIT, commit_of_code
from masksup.base.files import partial_name, written_whole

_PACKAGES = (masksup, launch)


def _sources() -> list[tuple[Path, Path]]:
    """(file, its place in the copy), sorted."""
    found = []
    for package in _PACKAGES:
        assert package.__file__ is not None
        root = Path(package.__file__).parent
        for file in root.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                found.append((file, Path(root.name) / file.relative_to(root)))
    return sorted(found, key=lambda pair: pair[1])


def place_of(folder: Path) -> Path:
    """Where `snapshot` puts, or would put, the packages as they are now: named by their content."""
    digest = hashlib.sha256()
    for file, place in _sources():
        content = file.read_bytes()
        digest.update(f"{place}\0{len(content)}\0".encode() + content)
    return folder / f"code-{digest.hexdigest()[:12]}"


def snapshot(folder: Path) -> Path:
    """Copy the packages below `folder`, unless they are there. Returns the copy.

    A run has it in `RUN/launch`. Its files are shared, by hard links, with those that another run beside it has of the
    same content: there is one of each, which stays until the last run is removed. So nobody may write into them. A copy
    that was changed nevertheless is what its name says again.
    """
    final = place_of(folder)
    if final.is_dir():
        _restore(final)
        return final
    shared = _copy_beside(folder, final.name)
    partial = partial_name(final)
    try:
        partial.mkdir()
        for file, place in _sources():
            target = partial / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if shared is None or not _linked(file, shared / place, target):
                _copied(file, target)
        (partial / COMMIT).write_text(commit_of_code() or "", encoding="ascii")
        try:
            partial.rename(final)
        except OSError:  # somebody else was faster with the same content
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone where all went well
    return final


def _restore(copy: Path) -> None:
    """Put back each file that is no longer what it was, under its name alone: other runs may share the changed one."""
    for file, place in _sources():
        target = copy / place
        if not _is_same(target, file):
            target.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(target) as partial:
                _copied(file, partial)


def _copied(source: Path, target: Path) -> None:
    """A copy that the umask's readers may read and nobody may write."""
    shutil.copyfile(source, target)
    target.chmod(stat.S_IMODE(target.stat().st_mode) & 0o444)


def _copy_beside(folder: Path, name: str) -> Path | None:
    """The copy of this name that a neighbour of the run of `folder` has."""
    with suppress(OSError):
        for run in folder.parents[1].iterdir():
            with suppress(OSError):  # another user's run
                copy = run / folder.name / name
                if copy.stat().st_uid == os.getuid():  # who owns code can change it
                    return copy
    return None


def _linked(source: Path, shared: Path, target: Path) -> bool:
    """Whether `target` is now another name of the shared file, which still is what `source` is.

    Not where the file system has no hard links, or no more of this file, or the neighbour is being removed.
    """
    try:
        os.link(shared, target, follow_symlinks=False)
    except OSError:
        return False
    found = target.stat(follow_symlinks=False)  # asked once it has its second name: the neighbour may change in between
    if found.st_uid == os.getuid() and not found.st_mode & 0o222 and _is_same(target, source):
        return True
    target.unlink()
    return False


def _is_same(path: Path, source: Path) -> bool:
    """Whether `path` is a file, no link to one, that has what `source` has."""
    with suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode) and path.read_bytes() == source.read_bytes()
    return False
