"""Folders of images, one a class -> index. An image of several classes is linked into the folder of each.

Links, hard or symbolic, to one file are one image with all their labels. `root` holds the folders of the classes, or a
folder of these for each of the usual splits (train, val, test, ...). Where images lie deeper, `nested` says which of
the folders is the class.
"""

import os
from pathlib import Path
from typing import Literal

from masksup.base.words import counted
from masksup.data.prepare.images import inside
from masksup.data.prepare.options import named_splits
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.joined import joining
from masksup.data.prepare.tables.labelled import Labelled, Row
from masksup.data.prepare.tables.words import SPLITS, looks_like_image
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_NO_CLASSES = {"images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "Images", "JPEGImages"}
_MADE = {"__MACOSX", "@eaDir"}  # by macOS in archives, by Synology beside pictures


def prepare_folders(
    root: Path,
    *,
    split: list[str] | None = None,
    nested: Literal["outer", "inner", "both"] | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    none: list[str] | None = None,
    same_case: bool = False,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Splits: the folders in `root` that are called so, each NAME=FOLDER of `split`, else all of it as `train`.

    `nested`: of animals/cat/a.jpg the class is the outer folder, the inner one, or both.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected folders of images, one a class")
    folders = _split_folders(root, split)
    if not any(_folders(folder) for folder in folders.values()):
        raise UserError(f"--root {root}: found no folder in {next(iter(folders.values()))}, expected one a class")
    if len(names := {name for folder in folders.values() for name in _folders(folder)}) == 1 and names <= _NO_CLASSES:
        raise UserError(
            f"--root {root}: found the folder '{next(iter(names))}' alone, expected folders of images, one a class; of "
            "images beside a table or a JSON file, take the reader of these"
        )
    tables = {name: _labelled(root, folder, nested) for name, folder in folders.items()}
    names = {name for table in tables.values() for name in table.columns or ()}
    for table in tables.values():
        table.columns = tuple(sorted(names))
    rules = ClassRules(classes, tuple(drop_class or ()), tuple(none or ()), same_case)
    contents = contents_of("folders", tables, FindImages(root), root, rules, skip_broken=skip_broken)
    if found := joining(dict.fromkeys(names, 1), skipped=" "):
        contents[0].warnings += (
            f"the folder '{found[1]}' seems to join classes by '{found[0]}', and becomes one class; link its "
            "images into the folder of each class instead",
        )
    return contents


def _hidden(name: str) -> bool:
    """Whether this is a folder that programs make for themselves, such as .ipynb_checkpoints."""
    return name.startswith(".") or name in _MADE


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _hidden(path.name))


def _inner(folder: Path) -> list[Path]:
    return [folder / name for name in _folders(folder)]


def _images(folder: Path) -> bool:
    """Whether images lie in the folder itself."""
    return any(looks_like_image(path.name) for path in folder.iterdir())


def _split_folders(root: Path, split: list[str] | None) -> dict[str, Path]:
    if split:
        folders = {name: root / inside(given or name, "--split") for name, given in named_splits(split).items()}
        for name, folder in folders.items():
            if not folder.is_dir():
                raise UserError(f"--split {name}: found no folder '{folder}', expected folders of images, one a class")
        return folders
    found = _folders(root)
    splits = [name for name in found if name.casefold() in SPLITS]
    if splits and splits == found:
        return {name: root / name for name in found}
    holding = [name for name in splits if not _images(root / name) and any(map(_images, _inner(root / name)))]
    if holding:
        others = [name for name in found if name not in splits]
        told = " ".join(f"--split {name}" for name in splits)
        raise UserError(
            f"--root {root}: found '{others[0]}' beside folders that look like splits, expected only classes or "
            f"only splits; {told} takes these as splits"
        )
    return {"train": root}


def _classes_of(place: Path, folder: Path, nested: str | None, image: str) -> tuple[str, ...]:
    """The classes that the folders between `folder` and an image in `place` give. UserError where that is open."""
    parts = place.relative_to(folder).parts
    if len(parts) > 1 and nested is None:
        raise UserError(
            f"{place}: found the image '{image}' {len(parts)} folders below {folder}, expected folders of images, one "
            f"a class; --nested outer takes '{parts[0]}' as its class, --nested inner '{parts[-1]}', --nested both "
            f"both{_as_root(folder, parts[0])}"
        )
    return {None: parts[:1], "outer": parts[:1], "inner": parts[-1:], "both": (parts[0], parts[-1])}[nested]


def _as_root(folder: Path, name: str) -> str:
    """The folder to take as --root where it is the only one."""
    return f"; or take --root {folder / name}" if len(_folders(folder)) == 1 else ""


def _labelled(root: Path, folder: Path, nested: str | None) -> Labelled:
    files: dict[tuple[int, int] | str, Row] = {}
    classes: set[str] = set()
    others = [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".") and not path.is_dir()]
    for number, name in enumerate(_folders(folder), 1):
        classes |= {name} if nested in (None, "outer") else set()
        for place, below, found in os.walk(folder / name):
            below[:] = sorted(name for name in below if not _hidden(name))
            for file in sorted(found):
                path = Path(place, file)
                if file.startswith(".") or not looks_like_image(file):
                    others += [] if file.startswith(".") else [f"{name}/{file}"]
                    continue
                relative = path.relative_to(root).as_posix()
                row = files.setdefault(_identity(path) or relative, Row(number, relative, {}))
                labels = _classes_of(Path(place), folder, nested, file)
                row.labels |= dict.fromkeys(labels, 1)
                classes |= {*labels}
                # The file itself names the image; a link does where the file lies elsewhere.
                if (root / row.image).is_symlink() and not path.is_symlink():
                    row.image = relative
    said = f"left out {counted(len(others), 'file')} that lie in no class or are no images (first: {others[:1]})"
    rows = list(files.values())
    return Labelled(folder, tuple(classes), rows, [said] if others else [], lambda _: str(folder))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
