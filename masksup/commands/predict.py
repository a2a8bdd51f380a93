"""`masksup predict`: labels for files, folders and globs, with any trained run."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from masksup.base.csv_text import RAW_HELP
from masksup.commands.options import add_model, model_of, refuse_threshold
from masksup.errors import UserError
from masksup.saved.running import add_running, running_of

if TYPE_CHECKING:
    from masksup.data.url import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders, quoted globs, addresses; - lists them on standard input",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.csv|.json", help="write all scores there")
    parser.add_argument("--raw-csv", action="store_true", help=RAW_HELP)
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write the images with their labels drawn there")
    parser.add_argument("--threshold", type=float, metavar="P", help="probability from which a class is printed")
    parser.add_argument(
        "--explain", action="store_true", help="with --pictures: also draw where the model sees each class"
    )
    parser.add_argument(
        "--classes",
        metavar="A,B,C",
        help="with --explain: show the maps of these classes, such as dog,person (default: the predicted ones)",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="fill up the last batch, which gives the scores of masksup eval to the last bit",
    )
    add_running(parser)
    parser.set_defaults(more="images")


def run(args: argparse.Namespace) -> None:
    """Print `path prediction: dog,person` for every image; write all scores and pictures where asked.

    Unreadable images are named at the end and make the exit status 2; the others are labelled all the same.
    """
    from masksup.base.log import log, start_logging
    from masksup.engine.precision import set_numerics
    from masksup.explain.predictions import draw_file, explaining
    from masksup.output.labels import Row, print_labels, tell_unlabelled, write_scores
    from masksup.saved.decisions_of import decisions_for, told
    from masksup.saved.label import label, load_blocks
    from masksup.saved.open import open_trained

    refuse_threshold(args.threshold)
    path, running = model_of(args), running_of(args)
    start_logging()
    files = _files(args)
    names_of = picture_names(files)
    trained = open_trained(path, args.weights).run_as(running)
    set_numerics(trained.config.precision)
    decisions = told(decisions_for(trained), args.threshold)
    wanted = explaining(trained, files, args.classes) if args.explain else None
    reader, rows, broken = True, list[Row](), list[str]()
    for block in load_blocks(files, trained, broken):
        for file, scores_C, regions in label(block, trained, decisions, exact=args.exact):
            rows.append((file, scores_C))
            reader = reader and print_labels(file, scores_C, decisions)
            if args.pictures is not None:
                draw_file(file, scores_C, regions, trained, decisions, args.pictures / names_of[file], wanted)
    tell_unlabelled(rows, decisions, args.out)
    if args.out is not None:
        facts = {"checkpoint": trained.checkpoint, "weights": trained.weights}
        write_scores(args.out, rows, decisions, facts, raw_csv=args.raw_csv)
        log.info(f"all scores: {args.out}")
    if args.pictures is not None:
        log.info(f"pictures: {args.pictures}")
    if broken:
        raise UserError("; ".join(broken))


def _files(args: argparse.Namespace) -> "list[Source]":
    """The images, once it is sure that all that is wanted of them can be written."""
    from masksup.base.files import refuse_unwritable
    from masksup.output.image_files import find_images
    from masksup.output.labels import check_out

    if args.explain and args.pictures is None:
        raise UserError("--explain: it needs --pictures DIR, the folder for its pictures")
    if args.classes is not None and not args.explain:
        raise UserError("--classes: found it without --explain, expected both; it names the classes of the maps")
    check_out(args.out)
    files = find_images(args.images)
    if args.pictures is not None:
        refuse_unwritable(args.pictures, create=True)
    return files


def picture_names(files: "Sequence[Source]") -> "dict[Source, str]":
    """A file name for the picture of each image: its stem, or its whole path where stems are shared. All differ."""
    stems = Counter(file.stem for file in files)
    names = {file: file.stem if stems[file.stem] == 1 else "_".join(file.parts).replace("/", "") for file in files}
    shared = Counter(names.values())
    return {file: f"{n}.png" if shared[n] == 1 else f"{n}_{i}.png" for i, (file, n) in enumerate(names.items())}
