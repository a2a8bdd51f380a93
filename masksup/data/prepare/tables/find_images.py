"""The name that a table has for an image -> its file below the root.

As named, without what --strip says and with --suffix. An absolute path below the root, or one that begins with the
root's own name, counts without this beginning. Else it is the only file of that name in another case; else, of a name
without a folder, the only file so called in any folder below the root. What was not found as named is counted and said.
"""

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from masksup.base.words import counted
from masksup.data.prepare.images import inside
from masksup.data.prepare.tables.words import looks_like_image
from masksup.errors import UserError


class FindImages:
    """Images below `folder`. `suffix`: of names that have none of an image. `strip`: a beginning to drop."""

    def __init__(self, folder: Path, suffix: str | None = None, strip: str | None = None) -> None:
        self.folder = folder
        self._strip = strip.replace("\\", "/").rstrip("/") + "/" if strip else ""
        self._stripped = False
        self._suffix = f".{suffix.lstrip('.')}" if suffix else ""
        self._tops = sorted({f"{path.as_posix().rstrip('/')}/" for path in (folder.absolute(), folder.resolve())})
        self._other_case: list[tuple[str, str]] = []
        self._elsewhere: list[tuple[str, str]] = []

    def exists(self, name: str) -> bool:
        """Whether there is an image of this name, as it stands or under the suffix."""
        try:
            return bool(name) and any(
                (self.folder / self._relative(text)).is_file() for text in {name, self._full(name)}
            )
        except (OSError, ValueError):
            return False

    def find(self, name: str, where: str) -> str:
        """The path relative to the folder; as named where there is no such file, which `check_images` tells."""
        if not name:
            raise UserError(f"{where}: found no name of an image, expected one in each row")
        relative = self._relative(self._full(name))
        try:
            path = inside(relative, where)
        except UserError as error:
            raise UserError(f"{error}{self._below(relative)}") from None
        if self._is_file(path):
            return path
        if self.folder.name and path.startswith(f"{self.folder.name}/"):
            trimmed = path.removeprefix(f"{self.folder.name}/")
            if self._is_file(trimmed):
                self._elsewhere.append((path, trimmed))
                return trimmed
        return self._in_other_case(path) or self._in_any_folder(path, where) or path

    def require_found(self, name: str, where: str) -> None:
        """UserError where --suffix or --strip would find what `name`, the first of a table, misses."""
        if not name or self.exists(name):
            return
        written = self._relative(self._full(name)).replace("\\", "/")
        path = posixpath.normpath(written)
        if "/" in path and not self._is_file(path) and not self._found(path) and (hint := self._below(written)):
            raise UserError(f"{where}: found no image '{name}' below {self.folder}{hint}")
        if self._suffix or looks_like_image(name):
            return
        found = sorted({ending for ending in self._endings[path] | self._endings[Path(path).name] if ending})
        if found:
            raise UserError(
                f"{where}: found the image '{name}' without an ending, expected the name of a file such as "
                f"{name}{found[0]}; --suffix {found[0]} adds it"
            )

    def _found(self, path: str) -> bool:
        """Whether `find` would find this path in another way than as named."""
        return path.startswith(f"{self.folder.name}/") or len(self._by_case.get(_any_case(path), ())) == 1

    def require_stripped(self) -> None:
        """UserError where no name began with what --strip says."""
        if self._strip and not self._stripped:
            raise UserError(f"--strip {self._strip}: found no image whose name begins so, expected all or some")

    def _below(self, path: str) -> str:
        """What to say of a name whose end is an image below the folder."""
        parts = path.replace("\\", "/").split("/")
        for dropped in range(1, len(parts)):
            rest = "/".join(parts[dropped:])
            if rest and ".." not in parts[dropped:] and "\0" not in rest and self._is_file(rest):
                start = "/".join(parts[:dropped])
                return f"; --strip '{start}' takes it as {rest}, which is there"
        return ""

    def warnings(self) -> list[str]:
        """What was not found as named, since the last call."""
        said = []
        for found, how in ((self._other_case, "in another case"), (self._elsewhere, "in another folder")):
            if found:
                old, new = found[0]
                said.append(f"{counted(len(found), 'image')} found {how} than named (first: {old} is {new})")
                found.clear()
        return said

    def _full(self, name: str) -> str:
        return f"{name}{self._suffix}" if name and self._suffix and not looks_like_image(name) else name

    def _relative(self, name: str) -> str:
        path = name.replace("\\", "/")
        if self._strip and path.startswith(self._strip):
            self._stripped = True
            return path[len(self._strip) :]
        for top in self._tops:
            if path.startswith(top):
                return path[len(top) :]
        return name

    def _is_file(self, path: str) -> bool:
        try:
            return os.path.lexists(self.folder / path)  # what it is, and whether it can be read, is said elsewhere
        except (OSError, ValueError):
            return False

    def _in_other_case(self, path: str) -> str | None:
        found = self._by_case.get(_any_case(path), [])
        if len(found) == 1:
            self._other_case.append((path, found[0]))
            return found[0]
        return None

    def _in_any_folder(self, path: str, where: str) -> str | None:
        found = self._by_name.get(_any_case(path), []) if "/" not in path else []
        if len(found) > 1:
            raise UserError(
                f"{where}: found {counted(len(found), 'image')} called '{path}' ({found[0]} and "
                f"{found[1]}), expected the folder in the name"
            )
        if len(found) == 1:
            self._elsewhere.append((path, found[0]))
            return found[0]
        return None

    @cached_property
    def files(self) -> list[str]:
        """All images below the folder; read when the first name is not found."""
        found = []
        for place, folders, names in os.walk(self.folder):
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            below = Path(place).relative_to(self.folder).as_posix()
            here = "" if below == "." else f"{below}/"
            found += [f"{here}{name}" for name in sorted(names) if not name.startswith(".") and looks_like_image(name)]
        return found

    @cached_property
    def _by_case(self) -> dict[str, list[str]]:
        return _grouped(self.files, _any_case)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped(self.files, lambda path: _any_case(path.rsplit("/", 1)[-1]))

    @cached_property
    def _endings(self) -> defaultdict[str, set[str]]:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for path in self.files:
            stem, _, ending = path.rpartition(".")
            found[stem].add(f".{ending}")
            found[stem.rsplit("/", 1)[-1]].add(f".{ending}")
        return found


def _any_case(name: str) -> str:
    """Without case; a letter with its accent is one letter or two, as the system that wrote the file has it."""
    return unicodedata.normalize("NFC", name).casefold()


def _grouped(paths: list[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(key(path), []).append(path)
    return found
