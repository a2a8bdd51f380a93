"""Which image files the arguments of a command name; without torch."""

import glob
from collections.abc import Iterable
from pathlib import Path

from masksup.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}


def find_images(arguments: Iterable[str]) -> list[Path]:
    """The image files that files, folders (all below them) and globs name, each once, in sorted order per argument."""
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not files:
                raise UserError(f"{argument}: found no image in this folder; expected {', '.join(sorted(SUFFIXES))}")
        elif path.exists():
            files = [path]
        else:
            files = sorted(Path(name) for name in glob.glob(argument, recursive=True) if Path(name).is_file())  # noqa: PTH207
            if not files:
                raise UserError(f"{argument}: no such image, folder or match")
        found |= dict.fromkeys(files)
    return list(found)
