"""`masksup settings`: what a configuration may set."""

import argparse

from masksup.base.json_option import add_json
from masksup.output.listing import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "section", nargs="?", metavar="SECTION", help="only this section or key, such as optim, model.head or optim.lr"
    )
    add_json(parser, "the rows")


def run(args: argparse.Namespace) -> None:
    """List settings with default, kind of value, meaning, an example and what a resume makes of another value."""
    from masksup.config.settings import find_settings

    show(find_settings(args.section), args.json, wide="meaning", prose=True)
