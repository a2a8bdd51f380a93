"""`masksup train`: one run from its configuration. What is wrong with it is told before torch is loaded."""

import argparse
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from masksup.base import signals
from masksup.base.json_option import add_json, given_as_json
from masksup.base.place import Place, find_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings, such as optim.lr=0.02")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="run folder (default: runs/NAME of the config)")
    parser.add_argument("--print-config", action="store_true", help="show every value and where it came from")
    add_json(parser, "what result.json of the run holds (of --print-config: the settings)")
    parser.set_defaults(more="overrides")


def run(args: argparse.Namespace) -> int:
    """Train, or go on. Returns the exit status of `masksup.training.train.train`."""
    from masksup.config.load import load_config
    from masksup.runtime.run_folder import refuse_taken

    place = find_place()
    if place.world > 1:
        # Or every rank shows a page of C++ frames where another one has left.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not args.print_config:
        # Before torch is loaded, which takes seconds.
        signals.install("finishes this step, saves and leaves" if place.first else "")
    with _told_once(place):
        config, sources = load_config(args.config, args.overrides)
    if args.print_config:
        from masksup.config.show import print_config

        print_config(config, sources, args.json)
        return 0
    run_dir = args.run_dir or Path("runs") / args.config.stem
    if place.world == 1:
        refuse_taken(run_dir)
    from masksup.base.files import read_json
    from masksup.training.train import train

    with given_as_json(args.json) as give:
        status = train(config, run_dir, place)
        if status == 0 and place.first:
            give(read_json(run_dir / "result.json", "the result of a run"))
    return status


def _told_once(place: Place) -> AbstractContextManager[None]:
    """Alone, a configuration is checked without torch."""
    if place.world == 1:
        return nullcontext()
    from masksup.runtime.join import told_once

    return told_once(place)
