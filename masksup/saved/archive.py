"""The archive of a packed model: a zip file of six uncompressed members that is read in place and never extracted.

`manifest.json` holds the size and sha256 of each other member. The comment of the zip file is the sha256 of all that
stands before its last record, so that any byte that was changed, cut off or added shows. Neither is a signature:
whoever means to can write another archive, with sums that fit. Reading one executes nothing, whatever it holds.
"""

import hashlib
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from masksup.base.files import as_json, open_regular, parse_json, written_whole
from masksup.base.words import counted
from masksup.decisions.calibration import fields
from masksup.errors import UserError

FORMAT = "masksup archive 1"
MANIFEST = "manifest.json"
CARD, CONFIG, DECISIONS, MODEL, WEIGHTS = (
    "README.md",
    "config.yaml",
    "decisions.json",
    "model.json",
    "weights.safetensors",
)
MEMBERS = (CARD, CONFIG, DECISIONS, MODEL, WEIGHTS)
_TEXT_LIMIT = 64 << 20  # bytes of a member that is no weights
_END = struct.Struct("<4s4H2LH")  # the last record of a zip file, before its comment
_SEAL = 64  # bytes: a sha256 in hexadecimal digits


def write_archive(file: Path, members: dict[str, bytes]) -> None:
    """Write the members (those of MEMBERS) with their manifest: whole, or not at all."""
    assert tuple(members) == MEMBERS, tuple(members)
    sums = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()}
    manifest = as_json({"format": FORMAT, "files": sums}, indent=1).encode()
    with written_whole(file) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, data in {MANIFEST: manifest, **members}.items():
                archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980, so that equal models give equal files
        seal(partial)


def seal(file: Path) -> None:
    """Append the sha256 of a zip file without comment, up to its last record, as its comment."""
    with file.open("r+b") as stream:
        digest = _digest(stream, file.stat().st_size - _END.size)
        stream.seek(-2, 2)
        stream.write(struct.pack("<H", _SEAL) + digest.encode("ascii"))


def read_archive(file: Path) -> dict[str, bytes]:
    """The members by name, every byte checked. UserError names the file and what is wrong with it."""
    try:
        _refuse_changed(file)
        with zipfile.ZipFile(file) as archive:
            _refuse_strange(file, archive.infolist())
            found = {name: archive.read(name) for name in (MANIFEST, *MEMBERS)}
    except UserError:
        raise
    except Exception as error:  # a zip file with a seal that fits may still fail in any way
        raise UserError(f"{file}: damaged archive: {error}") from None
    _compare(file, found.pop(MANIFEST), found)
    return found


def _refuse_changed(file: Path) -> None:
    with open_regular(file) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        if stream.read(4) != b"PK\x03\x04":
            raise UserError(f"{file}: found another kind of file, expected a run folder, checkpoint or packed archive")
        at = size - _END.size - _SEAL
        stream.seek(max(at, 0))
        tail = stream.read()
        last = _END.unpack(tail[: _END.size]) if at > 0 else (b"",)
        # Signature, numbers of this disk and of the first, members here and in all, ..., length of the comment.
        whole = last[0] == b"PK\x05\x06" and last[1:3] == (0, 0) and last[3] == last[4] and last[-1] == _SEAL
        if not whole or _digest(stream, at) != tail[_END.size :].decode("ascii", "replace"):
            raise UserError(
                f"{file}: altered or incomplete: the sha256 at its end is not that of its content; pack the run again"
            )


def _digest(stream: BinaryIO, length: int) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    while length > 0 and (piece := stream.read(min(length, 1 << 20))):
        digest.update(piece)
        length -= len(piece)
    return digest.hexdigest()


def _refuse_strange(file: Path, infos: list[zipfile.ZipInfo]) -> None:
    """UserError unless these are the members, each once, stored as they are: what is not compressed cannot unfold."""
    names = [info.filename for info in infos]
    if sorted(names) != sorted((MANIFEST, *MEMBERS)):
        odd = [name for name in names if name not in (MANIFEST, *MEMBERS) or names.count(name) > 1]
        missing = [name for name in (MANIFEST, *MEMBERS) if name not in names]
        what = f"found {odd[0][:80]!r}" if odd else f"found no {missing[0]}"
        raise UserError(f"{file}: {what} in it, expected {MANIFEST}, {', '.join(MEMBERS)}, each once")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise UserError(f"{file}: {info.filename}: found it compressed or encrypted, expected it as it is")
        if info.filename != WEIGHTS and info.file_size > _TEXT_LIMIT:
            raise UserError(
                f"{file}: {info.filename}: found {counted(info.file_size, 'byte')}, expected at most {_TEXT_LIMIT}"
            )


def _compare(file: Path, manifest: bytes, found: dict[str, bytes]) -> None:
    where = f"{file}: {MANIFEST}"
    try:
        tree = parse_json(manifest)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    given = fields(tree, where, ("format", "files"))
    if given["format"] != FORMAT:
        raise UserError(f"{where}: format: found {given['format']!r}, expected {FORMAT!r}")
    sums = fields(given["files"], f"{where}: files", MEMBERS)
    for name, data in found.items():
        if sums[name] != {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
            raise UserError(f"{file}: {name}: damaged: its sha256 or size is not the one in {MANIFEST}")
