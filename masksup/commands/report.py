"""`masksup report`: gather, compare, render, write."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from masksup.base.words import counted
from masksup.errors import UserError
from masksup.saved.running import Running, add_running, running_of

if TYPE_CHECKING:
    from masksup.report.gather import Subject

MOST_RUNS = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders; the others are compared with the first"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="the page, such as both.html (default: RUN/report.html; of several runs: report.html)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="INDEX",
        help="score all runs on this index, such as data/mine/test (default: as in their results)",
    )
    add_running(parser)


def run(args: argparse.Namespace) -> None:
    """Write one HTML file about the runs, the first of which the others are compared with."""
    from masksup.base.files import refuse_unwritable_file, write_atomically
    from masksup.base.log import log, start_logging
    from masksup.engine.precision import set_numerics
    from masksup.report.gather import gather
    from masksup.report.page import render

    running = running_of(args)
    start_logging()
    target = _target(args.runs, args.out)
    refuse_unwritable_file("--out", target)
    subjects = _subjects(args.runs, args.data, running)
    set_numerics(subjects[0].trained.config.precision)
    write_atomically(target, render([gather(subject) for subject in subjects]))
    log.info(f"report: {target} ({target.stat().st_size / 2**10:,.0f} KiB; opens in any browser, needs no network)")


def _target(paths: list[Path], out: Path | None) -> Path:
    """Where the report goes."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{paths[-1]}: found a run twice, expected each once")
    if len(paths) > MOST_RUNS:
        raise UserError(f"found {counted(len(paths), 'run')}, expected at most {MOST_RUNS} side by side")
    target = out or (paths[0] / "report.html" if len(paths) == 1 and paths[0].is_dir() else Path("report.html"))
    if target.suffix not in (".html", ".htm"):
        raise UserError(f"--out: found '{target.name}', expected a name that ends in .html")
    return target


def _subjects(paths: list[Path], data: Path | None, running: Running) -> "list[Subject]":
    """The runs, opened. All that may be refused is, before the hours that labelling may take."""
    from masksup.report.compare import refuse_other_data
    from masksup.report.gather import open_subject

    subjects: list[Subject] = []
    for path, name in zip(paths, run_names(paths)):
        # An index that was named is scored by one set of rules, those of the first run.
        rules = subjects[0].rules if subjects and data is not None else None
        subjects.append(open_subject(path, name, data, rules, running))
        refuse_other_data(subjects[0], subjects[-1])
    return subjects


def run_names(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart, at least the folder's own name."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names
