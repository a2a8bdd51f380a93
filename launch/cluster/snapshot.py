"""The code of a run, copied when it is submitted: editing the checkout changes no job that waits or comes back."""

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import launch
import masksup
from masksup.base.commit import COMMIT, commit_of_code

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
    same content: there is one of each, which stays until the last run is removed. So nobody may write into them.
    """
    final = place_of(folder)
    if final.is_dir():
        return final
    shared = _copy_beside(folder, final.name)
    partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=folder))  # two nodes may share a process number
    partial.chmod(0o755)
    for file, place in _sources():
        target = partial / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if shared is None or not _linked(file, shared / place, target):
            shutil.copyfile(file, target)
            target.chmod(0o444)
    (partial / COMMIT).write_text(commit_of_code() or "", encoding="ascii")
    try:
        partial.rename(final)
    except OSError:  # somebody else was faster with the same content
        shutil.rmtree(partial)
        if not final.is_dir():
            raise
    return final


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
        if shared.read_bytes() != source.read_bytes() or shared.stat().st_uid != os.getuid():
            return False
        os.link(shared, target, follow_symlinks=False)
    except OSError:
        return False
    return True
