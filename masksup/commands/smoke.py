"""`masksup smoke`: a configuration in miniature, from tiny data to an exported model that runs."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/; its data are not opened")


def run(args: argparse.Namespace) -> int:
    """Run the chain of `masksup.smoke.chain`."""
    from masksup.smoke.chain import run_smoke

    return run_smoke(args.config)
