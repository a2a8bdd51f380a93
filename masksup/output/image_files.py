"""Which image files the arguments of a command name; without torch."""

import glob
import logging
from collections.abc import Iterable
from pathlib import Path

from masksup.base.words import counted
from masksup.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}


def find_images(arguments: Iterable[str]) -> list[Path]:
    """The image files that files, folders (all below them) and globs name, each once, in sorted order per argument.

    Of a folder, hidden files and folders are left out, and files without the ending of an image, which a warning says.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = _images_below(path)
        elif path.exists():
            files = [path]
        else:
            files = sorted(Path(name) for name in glob.glob(argument, recursive=True) if Path(name).is_file())  # noqa: PTH207
            if not files:
                raise UserError(f"{argument}: no such image, folder or match")
        found |= dict.fromkeys(files)
    return list(found)


def hidden(path: Path) -> bool:
    """Whether a name begins with a dot: what a desktop or another program keeps there, such as macOS in `._a.jpg`."""
    return any(part.startswith(".") for part in path.parts)


def _images_below(folder: Path) -> list[Path]:
    shown = sorted(path for path in folder.rglob("*") if not hidden(path.relative_to(folder)) and path.is_file())
    images = [path for path in shown if path.suffix.lower() in SUFFIXES]
    others = [path for path in shown if path.suffix.lower() not in SUFFIXES]
    endings = ", ".join(sorted(SUFFIXES))
    if not images:
        raise UserError(f"{folder}: found no image in this folder; expected {endings}")
    if others:
        logging.getLogger("masksup").warning(
            f"{folder}: left out {counted(len(others), 'file')} without the ending of an image, such as "
            f"{others[0].name}; expected {endings}, or name the file itself"
        )
    return images
