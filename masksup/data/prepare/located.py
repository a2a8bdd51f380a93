"""Where the images are that an annotation file names: below which folder, without which beginning of their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_TRIED = 20


@dataclass(frozen=True)
class Located:
    """Images lie in `folder` (relative to the root) under their names without the first `dropped` parts."""

    folder: str
    dropped: int = 0

    def name(self, given: str) -> str:
        """The name within `folder`, with '/'. One that is not absolute stays as it is."""
        path = given.replace("\\", "/")
        return "/".join(_parts(path)[self.dropped :]) if self.dropped and _is_absolute(path) else path


def locate(root: Path, folders: Sequence[str], names: Sequence[str]) -> Located | None:
    """The first of `folders` that holds one of the first images.

    An absolute name is from another machine: as many parts are dropped from its beginning as it takes to find it.
    """
    for folder in folders:
        for given in names[:_TRIED]:
            path = given.replace("\\", "/")
            parts = _parts(path)
            for dropped in range(1 if _is_absolute(path) else 0, len(parts) if _is_absolute(path) else 1):
                rest = parts[dropped:]
                if ".." not in rest and "\0" not in path and _is_file(root / folder / "/".join(rest)):
                    return Located(folder, dropped)
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have is named later
        return False


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or path[1:2] == ":"


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parts
