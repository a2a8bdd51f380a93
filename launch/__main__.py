"""The commands of masksup-launch. Argument parsing only; what they need is imported inside the functions."""

import argparse
import sys
from pathlib import Path
from typing import Any

from masksup.base.json_option import add_json
from masksup.cli import Parser, hint, option_names, refuse_unknown
from masksup.errors import UserError
from masksup.exits import status_of

_PAIRS = ("environment", "sbatch", "srun")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 2 for a mistake in the input."""
    words = sys.argv[1:] if argv is None else argv
    command = next((word for word in words if not word.startswith("-")), "")
    parser = _parser(command)
    refuse_unknown(parser, command, _COMMANDS)
    args, rest = parser.parse_known_args(words)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") for word in rest)):
        more = "overrides" if hasattr(args, "overrides") else None
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}{hint(more, rest, args.options)}")
    if rest:
        args.overrides.extend(rest)
    return status_of("masksup-launch", args.run, args)


def _parser(wanted: str) -> argparse.ArgumentParser:
    """All commands by name, of which the one that is wanted knows its arguments."""
    from masksup import __version__

    parser = Parser(prog="masksup-launch", description="Runs on a SLURM cluster: submit, sweep, watch, stop, go on.")
    parser.add_argument("--version", action="version", version=f"masksup {__version__}")
    parser.set_defaults(run=lambda _: parser.print_help(), options=(), parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (meaning, add_arguments, run) in _COMMANDS.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        if name == wanted:
            add_arguments(command)
            command.set_defaults(run=run, options=option_names(command), parser=command)
    return parser


def _add_submit(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="settings, such as optim.lr=0.02")
    command.add_argument("--run-dir", type=Path, metavar="DIR", help="run folder (default: runs/NAME of the config)")
    _add_resources(command)


def _add_sweep(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="SWEEP.yaml", help="see configs/sweeps/")
    command.add_argument("--sweep-dir", type=Path, metavar="DIR", help="folder of its runs (default: runs/NAME)")
    command.add_argument("--results", action="store_true", help="only show the table of what is finished")
    add_json(command, "with --results: the rows of the table")
    _add_resources(command)


def _add_status(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", type=Path, nargs="?", default=Path("runs"), metavar="FOLDER", help="default: runs")
    command.add_argument("--json", action="store_true", help="print the table as JSON, for programs")
    command.add_argument("--state", metavar="A,B", help="only runs in these states, such as failed,waiting")
    command.add_argument("--sort", metavar="COLUMN", help="by mAP, left, ... (default: run)")
    command.add_argument("--columns", metavar="A,B", help="only these, such as run,state,mAP")
    command.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=5.0,
        metavar="SECONDS",
        help="show the table again every 5 s, or every SECONDS",
    )


def _add_preflight(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--folder",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder on the disk to be tested, such as runs (default: .)",
    )
    command.add_argument(
        "--data",
        type=Path,
        nargs="*",
        default=[],
        metavar="INDEX",
        help="indexes that every node has to read, such as data/mine/train",
    )
    command.add_argument("--throughput", type=Path, metavar="CONFIG",
                         help="instead, predict how long an epoch and a run of mine.yaml take")  # fmt: skip
    command.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                         help="with --throughput: a setting, such as data.workers=8")  # fmt: skip
    command.add_argument("--seconds", type=float, metavar="S",
                         help="with --throughput: seconds to train (default: 20)")  # fmt: skip
    command.add_argument("--cluster", choices=("slurm", "local"), default="slurm",
                         help="with --throughput: local measures on this machine")  # fmt: skip
    add_json(command, "what each rank found, and the bad nodes; with --throughput what was measured and predicted,")
    _add_resources(command, submits=False)
    command.add_argument(
        "--cluster-config",
        type=Path,
        metavar="FILE",
        help="YAML file of the site (default: ~/.config/masksup/cluster.yaml)",
    )


def _add_cancel(command: argparse.ArgumentParser) -> None:
    _add_runs(command)
    command.add_argument("--now", action="store_true", help="end them at once, without saving")


def _add_resume(command: argparse.ArgumentParser) -> None:
    _add_runs(command)
    command.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                         help="change a setting that may change on resume, such as data.workers=8")  # fmt: skip
    _add_resources(command, submits=False)


def _add_logs(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", type=Path, metavar="RUN", help="run folder")
    command.add_argument("--rank", type=int, default=0, metavar="K", help="default: 0")
    command.add_argument(
        "--start", type=int, metavar="N", help="log of the N-th start of the run (default: the newest)"
    )
    command.add_argument("--launcher", action="store_true", help="what the launcher on the first node wrote")
    command.add_argument("--follow", "-f", action="store_true", help="print new lines until the run is finished")


def _add_runs(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or folders that hold some")


def _add_resources(command: argparse.ArgumentParser, submits: bool = True) -> None:
    from launch.cluster.resources import Resources

    if submits:
        command.add_argument("--cluster", choices=("slurm", "local"), default="slurm", help="local: on this machine")
        command.add_argument("--cluster-config", type=Path, metavar="FILE",
                             help="YAML file of the site (default: ~/.config/masksup/cluster.yaml)")  # fmt: skip
        command.add_argument("--dry-run", action="store_true", help="show what would be submitted, submit nothing")
    group = command.add_argument_group("resources", "also keys of the site's YAML file, with _ for -")
    for name, field in Resources.model_fields.items():
        option = f"--{name.replace('_', '-')}"
        default = "yes" if field.default is True else "no" if field.default is False else field.default
        told = "" if default is None or name in ("setup", *_PAIRS) else f" (default: {default})"
        meaning = (field.description or "").replace("%", "%%") + told
        if name == "setup":
            group.add_argument(option, dest=f"resource_{name}", action="append", metavar="LINE", help=meaning)
        elif name in _PAIRS:
            group.add_argument(option, dest=f"resource_{name}", action="append", metavar="NAME=VALUE", help=meaning)
        elif field.annotation is bool:
            group.add_argument(option, dest=f"resource_{name}", action=argparse.BooleanOptionalAction, help=meaning)
        else:
            group.add_argument(option, dest=f"resource_{name}", metavar="N" if "int" in str(field.annotation) else "X",
                               help=meaning)  # fmt: skip


def resources_of(args: argparse.Namespace) -> Any:
    """The site's file and the options of the command line, as `Resources`."""
    from launch.cluster.resources import read_resources

    return read_resources(args.cluster_config, {"command line": options_of(args)})


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The resources that the command line names."""
    options: dict[str, Any] = {}
    for dest, value in vars(args).items():
        if not dest.startswith("resource_") or value is None:
            continue
        if dest.removeprefix("resource_") in _PAIRS:
            pairs = [item.partition("=") for item in value]
            if not all(equals for _, equals, _ in pairs):
                raise UserError(f"--{dest.removeprefix('resource_')}: found {value}, expected NAME=VALUE")
            value = {key: text for key, _, text in pairs}
        options[dest.removeprefix("resource_")] = value
    return options


def _submit(args: argparse.Namespace) -> int:
    from launch.submit_command import submit_one

    return submit_one(args.config, args.overrides, args.run_dir, resources_of(args), args.cluster, args.dry_run)


def _sweep(args: argparse.Namespace) -> int:
    from launch.sweep_command import sweep
    from launch.sweeps.results import show_results

    if args.results:
        show_results(args.sweep_dir or Path("runs") / args.file.stem, args.json)
        return 0
    if args.json is not None:
        raise UserError("--json: found it without --results, expected both: masksup-launch sweep FILE --results --json")
    return sweep(args.file, args.sweep_dir, args.cluster_config, options_of(args), args.cluster, args.dry_run)


def _status(args: argparse.Namespace) -> int:
    from launch.watch.table import status, view

    return status(args.runs.absolute(), args.json, args.watch, view(args.state, args.sort, args.columns))


def _preflight(args: argparse.Namespace) -> int:
    from launch.start.first_node import preflight
    from launch.start.preflight import REPORT
    from masksup.base.files import read_json
    from masksup.base.json_option import STDOUT, given_as_json

    if args.throughput is not None:
        return _throughput(args)
    for option, given in (
        ("--set", args.overrides),
        ("--seconds", args.seconds),
        ("--cluster", args.cluster == "local"),
    ):
        if given:
            raise UserError(f"{option}: found it without --throughput CONFIG, expected both")
    table_to = 2 if args.json == STDOUT else 1
    folder = args.folder.absolute()
    with given_as_json(args.json) as give:
        status = preflight(folder, [path.absolute() for path in args.data], resources_of(args), table_to)
        if (folder / REPORT).exists():
            give(read_json(folder / REPORT, "the report of masksup-launch preflight"))
    return status


def _throughput(args: argparse.Namespace) -> int:
    from launch.throughput import rates_of
    from masksup.base.json_option import given_as_json

    if args.data:
        raise UserError("--data: found it with --throughput, whose configuration names the data; expected one of them")
    seconds = 20.0 if args.seconds is None else args.seconds
    with given_as_json(args.json) as give:
        rates, status = rates_of(
            args.throughput, args.overrides, seconds, args.folder.absolute(), resources_of(args), args.cluster
        )
        if rates is None:
            return status
        from masksup.doctor.throughput import lines, to_json

        print("\n".join(lines(rates)), flush=True)
        give(to_json(rates))
    return status


def _cancel(args: argparse.Namespace) -> int:
    from launch.control import cancel

    return cancel(args.runs, args.now)


def _requeue(args: argparse.Namespace) -> int:
    from launch.control import requeue

    return requeue(args.runs)


def _resume(args: argparse.Namespace) -> int:
    from launch.control import resume

    return resume(args.runs, options_of(args), args.overrides)


def _logs(args: argparse.Namespace) -> int:
    from launch.control import logs

    return logs(args.runs, args.rank, args.start, args.launcher, args.follow)


# Name -> its line in the help, what defines its arguments, what runs it.
_COMMANDS = {
    "submit": ("submit one run as a SLURM job, which is queued again after a preemption", _add_submit, _submit),
    "sweep": (
        "submit a job array, one job for each setting; the same command again submits what is missing or failed",
        _add_sweep,
        _sweep,
    ),
    "status": ("show what runs, what waits, lost hours and best scores", _add_status, _status),
    "preflight": ("test GPUs, network, disk and data of the nodes", _add_preflight, _preflight),
    "cancel": ("stop runs: they save, leave, and are not queued again", _add_cancel, _cancel),
    "requeue": ("requeue runs: they save, leave, and wait in the queue again", _add_runs, _requeue),
    "resume": ("submit runs again that are neither finished nor active", _add_resume, _resume),
    "logs": ("print the log of a rank", _add_logs, _logs),
}


if __name__ == "__main__":
    sys.exit(main())
