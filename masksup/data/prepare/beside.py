"""Annotation files that programs write for each picture, beside it or elsewhere: their splits, and their images."""

from collections.abc import Sequence
from glob import escape
from pathlib import Path

from masksup.base.words import counted
from masksup.data.prepare.options import named_splits
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Labelled, Row
from masksup.data.prepare.tables.words import SPLITS, looks_like_image
from masksup.errors import UserError


def files_of_splits(root: Path, ending: str, split: list[str] | None) -> dict[str, list[Path]]:
    """{split: its annotation files}: those of each folder of the root where all are called train, val, test or the
    like, else all of them as train; or those in the folders that `split` names. UserError where there are none."""
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected images, each with a file {ending}")
    named = {name: root / (folder or name) for name, folder in named_splits(split or []).items()}
    files = _below(root, ending)
    if not named:
        named = _split_folders(root, files)
    found = {name: _below(folder, ending) for name, folder in named.items()} or {"train": files}
    for name, there in found.items():
        if not there:
            raise UserError(f"{named.get(name, root)}: found no {ending} file, expected one for each image")
    return found


def _split_folders(root: Path, files: Sequence[Path]) -> dict[str, Path]:
    """{split: its folder} of the first folders that part the files, if they are called so; none where all is train.
    UserError for such folders beside others."""
    inner = [file.parent.relative_to(root).parts for file in files]
    depth = 0
    while inner and all(len(parts) > depth for parts in inner) and len({parts[depth] for parts in inner}) == 1:
        if inner[0][depth].casefold() in SPLITS:
            break
        depth += 1
    base = root.joinpath(*inner[0][:depth]) if inner else root
    tops = sorted({parts[depth] if len(parts) > depth else "" for parts in inner})
    splits = [name for name in tops if name.casefold() in SPLITS]
    if splits and splits != tops:
        other = next(name for name in tops if name not in splits)
        there = f"'{other}'" if other else "the folder itself"
        told = " ".join(f"--split {name}={(base / name).relative_to(root)}" for name in splits)
        raise UserError(
            f"{base}: found annotations in {there} beside '{splits[0]}', which looks "
            f"like a split; expected only splits or none; {told} takes these as splits"
        )
    return {name: base / name for name in splits}


def _below(folder: Path, ending: str) -> list[Path]:
    files = (path for path in folder.rglob(f"*{ending}") if not path.name.startswith("."))
    return sorted(file for file in files if file.is_file())


def image_of(file: Path, stated: str, find: FindImages) -> str:
    """The image of an annotation file, relative to the folder of `find`: what it states, seen from its own folder; else
    the image of its own name beside it; else wherever an image of the stated name is."""
    name = stated.replace("\\", "/")
    folder = file.parent.resolve()
    stated_path = [folder / name] if name else []
    same_stem = [path for path in sorted(file.parent.glob(f"{escape(file.stem)}.*")) if looks_like_image(path.name)]
    own = [path for path in same_stem if path.stem == file.stem]
    if own and stated_path and stated_path[0].is_file() and stated_path[0].stem.casefold() != file.stem.casefold():
        raise UserError(
            f"{file}: found the image '{stated}' named in it, and '{own[0].name}' beside it, which are two pictures; "
            "expected the labels of one: give the annotation file the name of its image, or write that name in it"
        )
    for path in (*stated_path, *same_stem):
        if path.is_file() and path.resolve().is_relative_to(find.folder.resolve()):
            return path.resolve().relative_to(find.folder.resolve()).as_posix()
    return name.rsplit("/", 1)[-1] or f"{file.stem}.jpg"


def labelled(files: Sequence[Path], rows: list[Row], find: FindImages) -> Labelled:
    """The rows, row n of file n, of one split; images that lie beside them without a file are said."""
    taken = {row.image for row in rows}
    folders = {file.parent.relative_to(find.folder).as_posix() for file in files}
    alone = [name for name in find.files if Path(name).parent.as_posix() in folders and name not in taken]
    said = f"{counted(len(alone), 'image')} without a file of labels left out (first: {alone[0]})" if alone else ""
    return Labelled(files[0].parent, None, rows, [said] if said else [], lambda number: str(files[number]))
