"""What `prepare` asks of every image file: inside the root, readable, complete, how large, which bytes."""

import hashlib
import io
import posixpath
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from masksup.base.files import read_regular
from masksup.data.decode_pil import FORMATS, ORIENTATION, BrokenImage, deep_values, is_deep, read_header
from masksup.data.ends_early import ends_early
from masksup.data.prepare.options import storable
from masksup.data.reading import span
from masksup.errors import UserError

MOST_PIXELS = 178_956_970  # above it a file is damaged or hostile
SIDEWAYS = 5  # from this orientation on, width and height change places
NO_SUCH_IMAGE = "no such image"
_MAX_NAME = 255  # bytes of one file name, on every usual file system
_THREADS = 8
_BATCH = 64


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """A good image file: width and height in px (after EXIF if asked), blake2b-128 of its bytes, the orientation in
    its EXIF (1: as it is), and of pixels that are not plain 8 bits the least, the largest, and whether all are whole.
    """

    width: int
    height: int
    digest: bytes
    turn: int = 1
    span: tuple[float, float, bool] | None = None


class BrokenFile(Exception):
    """Why an image file cannot be used; `check_images` turns it into text."""


def inside(name: str, where: str) -> str:
    """`name` normalised, with '/'. UserError naming `where` if it is empty, would leave the root or cannot exist.

    The rule: the text of an annotation file, which may come from anybody, never leads out of the root. Links in the
    root are followed wherever they lead, because who made them chose that; a device or FIFO behind one is refused.
    """
    path = posixpath.normpath(name.replace("\\", "/")) if name else ""
    drive = len(path) > 1 and path[1] == ":"
    if path in ("", ".") or "\0" in path or path.startswith("/") or drive or path.split("/")[0] == "..":
        raise UserError(f"{where}: found the path {name!r}, expected one that stays inside the root")
    require_possible(path, where)
    return path


def require_possible(path: str, where: str) -> None:
    """UserError naming `where` if no file can have this path, or if it cannot be stored as UTF-8."""
    if not storable(path) or any(len(part.encode("utf-8")) > _MAX_NAME for part in path.split("/")):
        raise UserError(
            f"{where}: found the path {ascii(path)[:60]}, expected names in UTF-8 of {_MAX_NAME} bytes at most"
        )


def check_images(root: Path, names: Iterable[str], *, exif: bool, verify: bool = False) -> dict[str, ImageFacts | str]:
    """Facts of each image below `root`, or the reason why it cannot be used.

    Reads every byte once; hashing, reading and decoding release the interpreter lock, so threads help.
    verify: decodes every image, as training will.
    """
    wanted = list(dict.fromkeys(names))
    batches = [wanted[start : start + _BATCH] for start in range(0, len(wanted), _BATCH)]

    def check(batch: list[str]) -> list[tuple[str, ImageFacts | str]]:
        return [(name, _facts_or_problem(root / name, exif, verify)) for name in batch]

    found: dict[str, ImageFacts | str] = {}
    with ThreadPoolExecutor(_THREADS) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on EXIF and size; the decoder has its own pixel cap
        title = "Decoding images" if verify else "Checking images"
        for part in _progress(title, pool.map(check, batches), len(batches)):
            found.update(part)
    return found


def _progress(
    title: str, parts: Iterable[list[tuple[str, ImageFacts | str]]], total: int
) -> Iterable[list[tuple[str, ImageFacts | str]]]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(parts, title, total, console=console, transient=True, disable=not console.is_terminal)


def _facts_or_problem(path: Path, exif: bool, verify: bool) -> ImageFacts | str:
    try:
        data = read_regular(path)
        facts = _facts_of(data, exif)
        if verify and facts.span is None:  # pixels that are no plain 8 bits were decoded for their range
            _decode(data)
    except BrokenFile as problem:
        return str(problem)
    except UserError as error:
        return f"unreadable image ({str(error).removeprefix(f'{path}: ')})"
    except FileNotFoundError:
        return NO_SUCH_IMAGE
    except OSError as error:
        return f"unreadable image ({error.strerror or error})"
    return facts


def _decode(data: bytes) -> None:
    from masksup.data.decode import decode_bytes  # loads torch

    try:
        decode_bytes(data, "image", exif=False, max_pixels=MOST_PIXELS, whole=True)
    except BrokenImage as error:
        raise BrokenFile(str(error).removeprefix("image: found ")) from None
    if data[:2] == b"\xff\xd8" and ends_early(data):
        raise BrokenFile("truncated JPEG (its end-of-image marker comes before its last pixels)")


def _facts_of(data: bytes, exif: bool) -> ImageFacts:
    if not data:
        raise BrokenFile("empty image file (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise BrokenFile(f"image of {width} x {height} pixels, above {MOST_PIXELS:,}")
            turn = _turn(data, image)
            found = _span(data, image) if is_deep(image) else None
            _require_complete(data, image)
            by_pillow = image.format == "TIFF"  # which it turns as soon as the head is read
    except UnidentifiedImageError as error:
        raise BrokenFile(f"not an image ({', '.join(FORMATS)} are read)") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError) as error:
        # PIL's parsers raise all of these for damaged files.
        raise BrokenFile(f"damaged image ({' '.join(str(error).split())})") from error
    width, height = (height, width) if exif and turn >= SIDEWAYS and not by_pillow else (width, height)
    return ImageFacts(width, height, hashlib.blake2b(data, digest_size=16).digest(), turn, found)


def _turn(data: bytes, image: Image.Image) -> int:
    if image.format == "PNG" and b"eXIf" not in data and b"Raw profile type" not in data:
        return 1  # PIL would decode the whole file to look behind its pixels
    turn = image.getexif().get(ORIENTATION, 1)
    return turn if turn in range(2, 9) else 1


def _span(data: bytes, image: Image.Image) -> tuple[float, float, bool]:
    values = deep_values(image, lambda: Image.open(io.BytesIO(data), formats=FORMATS))
    assert values is not None
    return span(values)


def _require_complete(data: bytes, image: Image.Image) -> None:
    if image.format == "JPEG":
        try:
            read_header(data, "image")
        except BrokenImage as error:
            raise BrokenFile(str(error).removeprefix("image: ")) from None
        # Inside the entropy-coded data a 0xff byte is always escaped, so this is the true end marker; looking
        # only behind the first scan skips that of an EXIF thumbnail.
        if data.find(b"\xff\xd9", _first_scan(data)) < 0:
            raise BrokenFile("truncated JPEG (no end-of-image marker)")
    elif image.format == "PNG":
        if b"IEND\xaeB`\x82" not in data:
            raise BrokenFile("truncated PNG (no IEND chunk)")
    else:
        image.load()


def _first_scan(data: bytes) -> int:
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise BrokenFile("damaged JPEG (no marker where one belongs)")
        marker = data[position + 1]
        if marker == 0xDA:
            return position
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # fill byte or a marker without length
            position += 1 if marker == 0xFF else 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise BrokenFile("truncated JPEG (no image data)")
