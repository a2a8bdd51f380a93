"""`masksup replay`: one step of a run executed again, to see where a loss or a gradient came from."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN", help="a run folder; nothing in it is changed but RUN/replay"
    )
    parser.add_argument(
        "--step",
        type=int,
        required=True,
        metavar="N",
        help="number of the step, such as 1200; metrics.jsonl and the log count from 1",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for replay.json and the pictures (default: RUN/replay/step-N)",
    )


def run(args: argparse.Namespace) -> None:
    """Do the step again, print what it was, and write its pictures."""
    from masksup.base.files import refuse_unwritable
    from masksup.base.log import log, start_logging
    from masksup.errors import UserError
    from masksup.replay.again import replay
    from masksup.replay.show import lines, write

    start_logging()
    out = args.out or args.run_dir / "replay" / f"step-{args.step:09d}"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: found a file, expected the name of a folder")
    refuse_unwritable(next(folder for folder in out.absolute().parents if folder.is_dir()))
    found = replay(args.run_dir, args.step)
    for line in lines(found):
        log.info(line)
    files = write(found, out)
    log.info(f"written to {out}: {', '.join(file.name for file in files[:4])}{', ...' if len(files) > 4 else ''}")
