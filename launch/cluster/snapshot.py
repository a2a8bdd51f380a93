"""The code of a run, copied when it is submitted: editing the checkout changes no job that waits or comes back."""

import hashlib
import shutil
import tempfile
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
    """Copy the packages below `folder`, unless they are there. Returns the copy."""
    final = place_of(folder)
    if final.is_dir():
        return final
    partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=folder))  # two nodes may share a process number
    partial.chmod(0o755)
    for file, place in _sources():
        target = partial / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    (partial / COMMIT).write_text(commit_of_code() or "", encoding="ascii")
    try:
        partial.rename(final)
    except OSError:  # somebody else was faster with the same content
        shutil.rmtree(partial)
        if not final.is_dir():
            raise
    return final
