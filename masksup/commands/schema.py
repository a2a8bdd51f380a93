"""`masksup schema`: what the files of runs, sweeps and sites may hold, for editors that check and complete."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

# Those of sweeps and sites belong to the launcher, which stands above this package and is asked by name.
KINDS = {
    "run": "masksup.config.json_schema:run_schema",
    "sweep": "launch.file_schemas:sweep_schema",
    "site": "launch.file_schemas:site_schema",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=tuple(KINDS), nargs="?", default="run", help="which file (default: run)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write run.json, sweep.json and site.json there in place of printing"
    )


def run(args: argparse.Namespace) -> None:
    """Print one schema, or write all of them and say how a file names its own."""
    from masksup.base.files import as_json, refuse_unwritable, write_atomically

    if args.out is None:
        print(as_json(schema_of(args.kind), indent=1))
        return
    refuse_unwritable(args.out, create=True)
    for kind in KINDS:
        file = args.out / f"{kind}.json"
        write_atomically(file, as_json(schema_of(kind), indent=1) + "\n")
        print(f"{kind}: begin the file with  # yaml-language-server: $schema={file.absolute()}")


def schema_of(kind: str) -> dict[str, Any]:
    """The schema of a file of this kind, made from the models that read it."""
    module, _, function = KINDS[kind].partition(":")
    found: dict[str, Any] = getattr(import_module(module), function)()
    return found
