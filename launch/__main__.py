"""The commands of masksup-launch. Argument parsing only; what they need is imported inside the functions."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masksup.errors import UserError

USER_ERROR = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 2 for a mistake in the input."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides.extend(rest)
    try:
        status: int = args.run(args)
    except UserError as error:
        print(f"masksup-launch: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    from masksup import __version__

    parser = argparse.ArgumentParser(
        prog="masksup-launch", description="Runs on a SLURM cluster: submit, sweep, watch, stop, go on."
    )
    parser.add_argument("--version", action="version", version=f"masksup {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _add(commands, "submit", "one run, as a SLURM job that comes back by itself", _submit)
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="settings, such as optim.lr=0.02")
    command.add_argument("--run-dir", type=Path, metavar="DIR", help="run folder (default: runs/NAME of the config)")
    _add_resources(command)
    return parser


def _add(commands: Any, name: str, meaning: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=meaning, description=meaning)
    command.set_defaults(run=run)
    return command


def _add_resources(command: argparse.ArgumentParser) -> None:
    from launch.resources import Resources

    command.add_argument("--cluster", choices=("slurm", "local"), default="slurm", help="local: on this machine")
    command.add_argument("--cluster-config", type=Path, metavar="FILE",
                         help="defaults of the site (default: ~/.config/masksup/cluster.yaml)")  # fmt: skip
    command.add_argument("--dry-run", action="store_true", help="show what would be submitted, and submit nothing")
    group = command.add_argument_group("resources", "also keys of the site's YAML file, with _ for -")
    for name, field in Resources.model_fields.items():
        option = f"--{name.replace('_', '-')}"
        meaning = (field.description or "").replace("%", "%%")
        if name in ("environment", "sbatch"):
            group.add_argument(option, dest=f"resource_{name}", action="append", metavar="NAME=VALUE", help=meaning)
        elif field.annotation is bool:
            group.add_argument(option, dest=f"resource_{name}", action=argparse.BooleanOptionalAction, help=meaning)
        else:
            group.add_argument(option, dest=f"resource_{name}", metavar="N" if "int" in str(field.annotation) else "X",
                               help=f"{meaning} (default: {field.default})")  # fmt: skip


def resources_of(args: argparse.Namespace) -> Any:
    """The site's file and the options of the command line, as `Resources`."""
    from launch.resources import read_resources

    options: dict[str, Any] = {}
    for dest, value in vars(args).items():
        if not dest.startswith("resource_") or value is None:
            continue
        if isinstance(value, list):
            pairs = [item.partition("=") for item in value]
            if not all(equals for _, equals, _ in pairs):
                raise UserError(f"--{dest.removeprefix('resource_')}: found {value}, expected NAME=VALUE")
            value = {key: text for key, _, text in pairs}
        options[dest.removeprefix("resource_")] = value
    return read_resources(args.cluster_config, options)


def _submit(args: argparse.Namespace) -> int:
    from launch.one import submit_one

    return submit_one(args.config, args.overrides, args.run_dir, resources_of(args), args.cluster, args.dry_run)


if __name__ == "__main__":
    sys.exit(main())
