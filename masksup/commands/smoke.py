"""`masksup smoke`: a configuration in miniature, from tiny data to an exported model that runs."""

import argparse
from pathlib import Path

from masksup.base.json_option import add_json, given_as_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/; its data are not opened")
    add_json(parser, "the numbers of each way to run it")


def run(args: argparse.Namespace) -> None:
    """Run the chain of `masksup.smoke.chain`."""
    from masksup.smoke.chain import run_smoke

    with given_as_json(args.json) as give:
        give(run_smoke(args.config))
