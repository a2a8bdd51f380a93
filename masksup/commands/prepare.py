"""`masksup prepare NAME --root DIR --out DIR`: annotations -> one index folder for each split, with a table."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masksup.base.json_option import add_json, given_as_json

if TYPE_CHECKING:
    from masksup.data.prepare.assemble import FileRules
    from masksup.data.write_index import IndexContent

# Options of single data sets. Their defaults and allowed values are those of the preparers.
_OPTIONS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "annotations": (
        ("--split", {"action": "append", "metavar": "NAME[=FILE]",
                     "help": "only this split, from an id list (VOC), JSON[:IMAGEFOLDER] (COCO), JSON (WIDER) or "
                             "CSV; may be repeated"}),
        ("--skip-broken", {"action": "store_true", "default": None,
                           "help": "leave broken or missing images out, with a warning, instead of stopping"}),
        ("--classes", {"metavar": "FILE|A,B,C",
                       "help": "the classes in their order; of tables and COCO, others are left out (default: found)"}),
        ("--images", {"metavar": "DIR", "help": "folder of the images below --root (default: --root itself)"}),
    ),
    "VOC layout": (
        ("--difficult", {"metavar": "ignore|present|absent",
                         "help": "label of a class of which all objects are 'difficult' (default: ignore)"}),
    ),
    "COCO layout": (
        ("--crowd", {"metavar": "present|ignore",
                     "help": "label of a class that has only crowd regions (default: present)"}),
        ("--empty", {"metavar": "keep|drop", "help": "images without objects (default: keep; the originals drop)"}),
        ("--same-name", {"metavar": "refuse|merge", "help": "two categories of one name (default: refuse)"}),
        ("--class-order", {"metavar": "id|alphabetical", "help": "order of the classes (default: id)"}),
    ),
    "tables: csv, long, roboflow, celeba, chestxray14, chexpert": (
        ("--csv", {"action": "append", "metavar": "FILE", "help": "a split named after the file; may be repeated"}),
        ("--suffix", {"metavar": ".jpg", "help": "ending of images that the table names without one"}),
        ("--image-column", {"metavar": "NAME", "help": "column of the images (default: by the usual names)"}),
        ("--labels-column", {"action": "append", "metavar": "NAME",
                             "help": "column of the labels; may be repeated (default: by the usual names)"}),
        ("--ignore-column", {"action": "append", "metavar": "NAME", "help": "no class, such as age; may be repeated"}),
        ("--split-column", {"metavar": "NAME", "help": "column that names the split of each row (train, val, ...)"}),
        ("--strip", {"metavar": "TEXT", "help": "drop this beginning of every image name, such as /home/me/photos"}),
        ("--separator", {"metavar": "TEXT", "help": "the sign between labels: ',' ';' space ... (default: |)"}),
        ("--present", {"action": "append", "metavar": "VALUE",
                       "help": "a value that means present, such as yes or 2; may be repeated"}),
        ("--absent", {"action": "append", "metavar": "VALUE",
                      "help": "a value that means absent, such as -1 or blank; may be repeated"}),
        ("--ignored", {"action": "append", "metavar": "VALUE",
                       "help": "a value that means unknown, such as -1 or blank; may be repeated"}),
        ("--uncertain", {"metavar": "ignore|present|absent", "help": "what unknown labels count as (default: ignore)"}),
        ("--confidence", {"metavar": "P", "help": "long: from which Confidence a label is present (default: 0.5)"}),
        ("--unlisted", {"metavar": "ignore|absent",
                        "help": "labels of an image that no row of long, or no list of LVIS, names (default: ignore "
                                "where something says absent)"}),
        ("--names", {"metavar": "FILE", "help": "long: CSV of label ids and their names; yolo: the list of classes"}),
        ("--drop-class", {"action": "append", "metavar": "NAME", "help": "a class to leave out; may be repeated"}),
        ("--none", {"action": "append", "metavar": "NAME",
                    "help": "a label that means 'no label', such as 'No Finding'; may be repeated"}),
        ("--same-case", {"action": "store_true", "default": None,
                         "help": "classes that differ in case or blanks only are one"}),
        ("--encoding", {"metavar": "NAME", "help": "letters of the table, such as latin-1 (default: UTF-8, UTF-16)"}),
    ),
    "folders": (
        ("--nested", {"metavar": "outer|inner|both",
                      "help": "the class of animals/cat/a.jpg: outer is animals, inner is cat, both are both"}),
    ),
    "shapes (drawn if absent)": (
        ("--train", {"metavar": "N", "help": "training images"}),
        ("--val", {"metavar": "N", "help": "validation images"}),
        ("--test", {"metavar": "N", "help": "test images"}),
        ("--size", {"metavar": "PX", "help": "side of an image"}),
        ("--seed", {"metavar": "N", "help": "seed of the drawing"}),
    ),
}  # fmt: skip


# What a split of the usual name is for.
_KEYS = {"val": "data.eval", "valid": "data.eval", "validation": "data.eval", "test": "data.test"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments of `masksup prepare`."""
    from masksup.config.components import DATASETS

    parser.add_argument("dataset", metavar="NAME", help=", ".join(DATASETS.entries))
    parser.add_argument(
        "--root", required=True, type=Path, metavar="DIR", help="folder of the data set (shapes: where to draw it)"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="where to write; one folder a split below it"
    )
    parser.add_argument(
        "--write-originals", type=Path, metavar="DIR", help="also write the JSON lists of the released CSRA code"
    )
    add_json(parser, "what was found, with the positives of every class,")
    files = parser.add_argument_group("image files")
    files.add_argument(
        "--verify", action="store_true", help="decode every image, which also finds damage in the middle of a file"
    )
    files.add_argument(
        "--pixel-range", default="auto", metavar="auto|LOW:HIGH",
        help="which values of pictures of more than 8 bits are black and white, such as 0:4095 (default: the fewest "
             "bits that hold them all)",
    )  # fmt: skip
    files.add_argument(
        "--exif", choices=("auto", "use", "ignore"), default="auto",
        help="whether to turn images as their EXIF says (default: where the annotations state the turned size; of "
             "tables, always)",
    )  # fmt: skip
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for flag, settings in options:
            group.add_argument(flag, **settings)


def run(args: argparse.Namespace) -> None:
    """Prepare one data set. Raises UserError for wrong input; nothing is written then."""
    with given_as_json(args.json) as give:
        give(_prepare(args))


def _prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Write the indexes, show what was found, and return it."""
    from masksup.data.prepare.originals import refuse_other_rules, write_originals
    from masksup.data.prepare.table import print_table, to_json
    from masksup.data.write_index import write_index
    from masksup.errors import UserError

    options = _options(args)
    if args.write_originals:
        refuse_other_rules(args.dataset, options)
    try:
        _refuse_foreign_out(args.out)
        contents = read(args)
        if args.write_originals:
            write_originals(contents, args.root, options.get("split"), args.write_originals)
        indexes = [write_index(args.out / content.split, content) for content in contents]
    except OSError as error:
        raise UserError(
            f"{error.filename or args.out}: {error.strerror or error}, expected a path to read or write"
        ) from error
    print_table(contents)
    for index in indexes:
        # Plain prints: rich would wrap a path, and these lines are for copying.
        print(
            f"{index.split}: {_KEYS.get(index.split, 'data.train')}={args.out / index.split} (index {index.hash[:12]})"
        )
    _print_next(args.out, [index.split for index in indexes])
    return to_json(contents, args.out)


def read(args: argparse.Namespace) -> "list[IndexContent]":
    """What the annotations say under the options given, an item a split. Raises UserError for wrong input."""
    from masksup.config.components import DATASETS
    from masksup.data.prepare.assemble import reading_files

    prepare, options = DATASETS.resolve(args.dataset), _options(args)
    with reading_files(_file_rules(args)):
        contents: list[IndexContent] = prepare(args.root, **options)
    return contents


def _file_rules(args: argparse.Namespace) -> "FileRules":
    from masksup.data.prepare.assemble import FileRules
    from masksup.data.reading import range_from_text

    exif = {"auto": None, "use": True, "ignore": False}[args.exif]
    return FileRules(exif, range_from_text(args.pixel_range, "--pixel-range"), args.verify)


def _print_next(out: Path, splits: list[str]) -> None:
    """What to train on them: a recipe or a file of one's own, or whatever `auto` finds best."""
    from masksup.base.next_steps import next_lines

    parts: dict[str, Path] = {}
    for split in sorted(splits, key=lambda split: split != "train"):
        parts.setdefault(_KEYS.get(split, "data.train"), out / split)
    train = parts.get("data.train", out / splits[0])
    words = [f"{key}={path}" for key, path in parts.items()]
    choose = ("masksup", "auto", "--data", train, "--out", f"runs/{out.name}")
    steps = ((choose, "chooses the settings"), (("masksup", "train", "CONFIG", *words), "with settings of yours"))
    for line in next_lines(*steps):
        print(line)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The options given, checked against those that the data set takes."""
    from pydantic import ValidationError

    from masksup.config.components import DATASETS
    from masksup.errors import UserError

    model = DATASETS.options(args.dataset)
    flags = [flag for options in _OPTIONS.values() for flag, _ in options]
    given = {flag: getattr(args, _key(flag)) for flag in flags if getattr(args, _key(flag)) is not None}
    takes = [flag for flag in flags if _key(flag) in model.model_fields]
    for flag in given:
        if flag not in takes:
            raise UserError(f"{flag}: not an option of {args.dataset}, expected one of {', '.join(takes)}")
    values = {_key(flag): value for flag, value in given.items()}
    try:
        return model(**values).model_dump(include=set(values))
    except ValidationError as error:
        first = error.errors()[0]
        flag = f"--{str(first['loc'][0]).replace('_', '-')}"
        raise UserError(f"{flag}: found '{first['input']}'; {first['msg']}") from error


def _key(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _refuse_foreign_out(out: Path) -> None:
    """Hours of checking images should not end at a folder that may not be written."""
    from masksup.data.prepare.images import require_possible
    from masksup.data.write_index import refuse_foreign
    from masksup.errors import UserError

    require_possible(out.as_posix(), "--out")
    if out.is_file() or (out / "index.json").exists():
        raise UserError(f"--out {out}: found a file or a single index, expected the folder above the splits")
    for child in sorted(out.iterdir()) if out.is_dir() else ():
        if child.name.startswith("."):  # left by an interrupted write, or by a desktop
            continue
        if child.is_file() or not (child / "index.json").is_file():
            raise UserError(
                f"--out {out}: found '{child.name}' there, expected a new folder, or one that holds only indexes"
            )
        refuse_foreign(child)
