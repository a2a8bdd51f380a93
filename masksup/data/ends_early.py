"""JPEG files whose end marker comes before their last pixels, as those of which a part was lost and an end was added.

Decoders say nothing and fill what is missing: in one colour, or, of a progressive file, without detail. A cheap sign is
looked for in every file, and only where it shows the file is decoded again, behind its end.
"""

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masksup.base.files import Bytes

# Among pixels, FF is escaped (00), repeated (FF) or restarts the decoder (D0 to D7): a marker is none of these.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END, _SCAN, _NO_FRAME = 0xD9, 0xDA, (0xC4, 0xC8, 0xCC)
_CORNER = 4  # px
_ZEROS = bytes(16)  # with which no scan ends
# What no image ends in. A decoder that waits for a restart marker skips everything else, so there is each of them.
_BEHIND = b"".join(bytes(range(1, 255)) + bytes([0xFF, 0xD0 + number]) for number in range(8))


def seems_early(jpeg: Bytes, pixels_3HW: NDArray[np.uint8], turned: Callable[[], bool]) -> bool:
    """Whether a file that was decoded to these pixels may end early. `turned`: whether they were turned as EXIF says,
    asked only where it matters.

    What is missing shows as a lower right corner of one colour; of a progressive file, scans are missing. One
    that ends within its last scan lacks the last bit of some coefficients, and passes: only `ends_early` finds it.
    """
    progressive, whole = _scans(jpeg)
    if progressive or not whole:
        return not whole
    low, far = slice(None, _CORNER), slice(-_CORNER, None)
    others = ((far, low), (low, far), (low, low))
    return _flat(pixels_3HW[:, far, far]) or (
        any(_flat(pixels_3HW[:, rows, columns]) for rows, columns in others) and turned()
    )


def ends_early(jpeg: Bytes) -> bool:
    """Whether a decoder would read beyond the end marker, and so show other pixels where other bytes stand there.

    At an eighth of the size, asking twice costs little.
    """
    whole = bytes(jpeg)
    end = next((at for marker, at in segments(jpeg) if marker == _END), len(jpeg))
    progressive, complete = _scans(jpeg)
    if progressive and not complete and whole.endswith(_ZEROS, 0, end):
        return True  # a decoder takes the zeros for the rest of a scan, and misses no later one
    try:
        return bool(_shown(whole[:end]) != _shown(whole[:end] + _BEHIND))
    except OSError:  # of a progressive file, PIL notices by itself
        return True


def _flat(pixels_3HW: NDArray[np.uint8]) -> bool:
    return bool(np.all(pixels_3HW == pixels_3HW[:, :1, :1]))


def segments(jpeg: Bytes) -> Iterator[tuple[int, int]]:
    """Markers and where they stand, to the end of the image (ITU T.81, B.1.1)."""
    at = 2
    while found := _MARKER.search(jpeg, at):
        at = found.start()
        yield jpeg[at + 1], at
        at += 2 + (0 if jpeg[at + 1] == _END else int.from_bytes(jpeg[at + 2 : at + 4]))


def _scans(jpeg: Bytes) -> tuple[bool, bool]:
    """Whether the file is progressive, and whether its scans name all bits of all coefficients of all components."""
    progressive = False
    missing: dict[int, bytearray] = {}  # of each component, the bits of each coefficient that were not named yet
    for marker, at in segments(jpeg):
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            progressive = marker & 3 == 2
            missing = {number: bytearray(b"\1" * 64) for number in jpeg[at + 10 : at + 10 + 3 * jpeg[at + 9] : 3]}
        elif marker == _SCAN:
            numbers_end = at + 5 + 2 * jpeg[at + 4]
            first, last, bits = jpeg[numbers_end : numbers_end + 3]
            for number in jpeg[at + 5 : numbers_end : 2]:
                missing[number][first : last + 1] = bytes([bits & 15]) * (last + 1 - first)
            if not any(map(any, missing.values())):
                return progressive, True
        elif marker == _END:
            break
    return progressive, False


def _shown(jpeg: bytes) -> Any:
    with Image.open(io.BytesIO(jpeg + b"\xff\xd9"), formats=("JPEG",)) as image:
        if not image.info.get("progressive"):  # whose last scans do not show at this size
            image.draft(None, (1, 1))
        return image.tobytes()
