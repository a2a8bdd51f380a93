"""`masksup doctor`: what bounds the speed of a run on this machine, and which setting to change."""

import argparse
from pathlib import Path

from masksup.base.json_option import add_json, given_as_json
from masksup.errors import UserError

SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, metavar="RUN|CONFIG", help="a YAML file, or a run folder (then its record is read, too)"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings, such as data.workers=8"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S",
                        help="seconds to load images, and seconds to train (default: %(default)s)")  # fmt: skip
    add_json(parser, "the numbers and the verdict")
    parser.set_defaults(more="overrides")


def run(args: argparse.Namespace) -> None:
    """Measure, judge, print. Nothing is written but `--json`."""
    if not 0 < args.seconds <= 600:
        raise UserError(f"--seconds: found {args.seconds:g}, expected above 0 and at most 600")
    from masksup.base.log import log, start_logging
    from masksup.doctor.measure import examine
    from masksup.doctor.verdict import lines, to_json, verdict

    start_logging()
    with given_as_json(args.json) as give:
        found = examine(args.path, args.overrides, args.seconds)
        judged = verdict(found)
        for line in lines(found, judged):
            log.info(line)
        give(to_json(found, judged))
