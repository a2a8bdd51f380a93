"""Which images the arguments of a command name; without torch."""

import glob
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from masksup.base.words import counted
from masksup.data.decode_pil import BrokenImage, open_image
from masksup.data.shards import read_file
from masksup.data.url import Source, as_url
from masksup.errors import UserError

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip


def find_images(arguments: Iterable[str]) -> list[Source]:
    """The images that files, folders (all below them), globs and addresses name, each once, in sorted order per
    argument. `-` is a list of such names on standard input, one a line.

    Of folders, hidden files and folders are left out, and of folders and globs what has not the ending of an image. Of
    several files that are named, those are that have not the ending of an image and are none. All are counted and said.
    """
    given = list(_with_listed(arguments))
    found: dict[Source, None] = {}
    for argument in given:
        url, path = as_url(argument), Path(argument)
        if url is not None:
            files: list[Source] = [url]
        elif path.is_dir():
            files = [*_images_below(path)]
        elif path.exists():
            files = [path]
        else:
            files = [*_matches(argument)]
        found |= dict.fromkeys(files)
    return _without_others(list(found), set(given))


def _with_listed(arguments: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        if argument != "-":
            yield argument
            continue
        try:
            listed = [line.strip() for line in sys.stdin.read().splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"-: found bytes that are no text on standard input ({error.reason})") from None
        if not listed:
            raise UserError("-: found nothing on standard input, expected names of images, one a line")
        yield from listed


def hidden(path: Path) -> bool:
    """Whether a name begins with a dot: what a desktop or another program keeps there, such as macOS in `._a.jpg`."""
    return any(part.startswith(".") for part in path.parts)


def _has_ending(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _images_below(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shown = [path for path in files if not hidden(path.relative_to(folder))]
    images = [path for path in shown if _has_ending(path)]
    endings = ", ".join(sorted(SUFFIXES))
    if not images:
        raise UserError(f"{folder}: found no image in this folder; expected {endings}")
    if len(files) > len(shown):
        first = next(path for path in files if hidden(path.relative_to(folder)))
        _warn(
            f"{folder}: left out {counted(len(files) - len(shown), 'hidden file')}, such as {first.relative_to(folder)}"
        )
    _tell_others(str(folder), [path for path in shown if not _has_ending(path)])
    return images


def _matches(pattern: str) -> list[Path]:
    files = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207
    if not files:
        raise UserError(f"{pattern}: no such image, folder or match")
    images = [path for path in files if _has_ending(path)]
    if images:  # else the pattern itself asks for other endings
        _tell_others(pattern, [path for path in files if not _has_ending(path)])
    return images or files


def _without_others(files: list[Source], named: set[str]) -> list[Source]:
    """A shell that unfolds `photos/*` names what else lies there, too."""
    others = [
        path for path in files
        if isinstance(path, Path) and str(path) in named and not _has_ending(path) and not _is_image(path)
    ]  # fmt: skip
    if not others or len(others) == len(files):
        return files
    _warn(f"left out {counted(len(others), 'file')} that {'is no image' if len(others) == 1 else 'are no images'}, "
          f"such as {others[0]}")  # fmt: skip
    return [path for path in files if path not in set(others)]


def _is_image(path: Path) -> bool:
    try:
        open_image(read_file(path), str(path)).close()
    except BrokenImage:
        return False
    except UserError:  # what cannot be read is named when it is
        return True
    return True


def _tell_others(where: str, others: list[Path]) -> None:
    if others:
        _warn(
            f"{where}: left out {counted(len(others), 'file')} without the ending of an image, such as "
            f"{others[0].name}; expected {', '.join(sorted(SUFFIXES))}, or name the file itself"
        )


def _warn(text: str) -> None:
    logging.getLogger("masksup").warning(text)
