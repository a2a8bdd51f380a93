"""NUS-WIDE as published: Groundtruth/TrainTestLabels, a file of 1 and 0 for each concept and split, and ImageList."""

from pathlib import Path

from masksup.base.words import counted
from masksup.data.prepare.options import named_splits, read_text
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of, images_folder
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Labelled, Row
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_PARTS = {"train": "Train", "test": "Test"}


def prepare_nuswide(
    root: Path,
    *,
    split: list[str] | None = None,
    images: str | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Splits: train and test, or those of `split`. Images lie in `images`, by default the folder Flickr, or `root`.

    The classes stand in the order of their files, which is alphabetical, as in Concepts81.txt.
    """
    folder = images_folder(
        root, images or next((name for name in ("Flickr", "images") if (root / name).is_dir()), None)
    )
    wanted = list(named_splits(split)) if split else list(_PARTS)
    for name in wanted:
        if name not in _PARTS:
            raise UserError(f"--split {name}: found an unknown split, expected train or test")
    tables = {name: _labelled(root, _PARTS[name]) for name in wanted}
    rules = ClassRules(classes, tuple(drop_class or ()))
    return contents_of("nuswide", tables, FindImages(folder), root, rules, skip_broken=skip_broken)


def _labelled(root: Path, part: str) -> Labelled:
    found = sorted(root.glob(f"**/TrainTestLabels/Labels_*_{part}.txt"))
    lists = sorted(root.glob(f"**/{part}Imagelist.txt"))
    if not found or len(lists) != 1:
        raise UserError(
            f"--root {root}: found {counted(len(found), 'file')} TrainTestLabels/Labels_<concept>_{part}.txt and "
            f"{counted(len(lists), 'file')} {part}Imagelist.txt, expected some and one"
        )
    rows = [Row(n, line.strip(), {}) for n, line in enumerate(read_text(lists[0]).splitlines(), 1) if line.strip()]
    names = tuple(file.stem.removeprefix("Labels_").removesuffix(f"_{part}") for file in found)
    for name, file in zip(names, found):
        values = read_text(file).split()
        if len(values) != len(rows) or not {*values} <= {"0", "1"}:
            raise UserError(
                f"{file}: found {counted(len(values), 'value')} ({', '.join(sorted({*values})[:3])}), expected a 0 or "
                f"1 for each of the {counted(len(rows), 'image')} of {lists[0].name}"
            )
        for row, value in zip(rows, values):
            row.labels[name] = int(value)
    return Labelled(lists[0], names, rows)
