"""Images that are named by their address on the web, beside those in files; without torch."""

import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from masksup.data.decode_pil import BrokenImage
from masksup.data.shards import read_file

_SECONDS = 30
_MOST = 256 << 20  # bytes of one image
_KEPT = 16  # images that were fetched last: a picture of one is drawn soon after it is labelled


@dataclass(frozen=True)
class Url:
    """An http or https address. `name`, `stem` and `parts` are those of its path, as a `Path` has them."""

    address: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.address).path)).name.replace("\0", "") or "image"

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def parts(self) -> tuple[str, ...]:
        return (urlsplit(self.address).netloc, *PurePosixPath(unquote(urlsplit(self.address).path)).parts)


Source = Path | Url


def as_url(text: str) -> Url | None:
    """`text` if it is an address, else None."""
    return Url(text) if text.lower().startswith(("http://", "https://")) else None


def read_source(source: Source) -> bytes:
    """The bytes of a file or of what an address gives. UserError as `read_file`; BrokenImage for an address that gives
    nothing."""
    return _fetched(source.address) if isinstance(source, Url) else read_file(source)


@lru_cache(_KEPT)
def _fetched(address: str) -> bytes:
    ascii_only = quote(address, safe="!#$%&'()*+,/:;=?@[]~")
    try:
        request = urllib.request.Request(ascii_only, headers={"User-Agent": "masksup"})
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            data: bytes = answer.read(_MOST + 1)
    except urllib.error.HTTPError as error:
        raise BrokenImage(f"{address}: found the answer {error.code} ({error.reason}), expected an image") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise BrokenImage(f"{address}: cannot be fetched ({' '.join(str(why).split())}), expected an image") from None
    if len(data) > _MOST:
        raise BrokenImage(f"{address}: found more than {_MOST >> 20} MiB, expected an image")
    return data
