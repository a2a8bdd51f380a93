"""The commands. Argument parsing only: heavy imports stand inside the functions, so that --help is instant."""

import argparse
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import NoReturn, TypeAlias

from masksup import __version__
from masksup.base import signals
from masksup.base.csv_text import RAW_HELP
from masksup.base.place import Place, find_place
from masksup.commands import auto, import_weights, prepare, shards
from masksup.errors import UserError
from masksup.exits import status_of
from masksup.saved.running import add_running, running_of


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 for a mistake in the input, 75 if stopped on request."""
    args = _parse(_parser(), argv)
    return status_of("masksup", lambda: args.run(args))


def _parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Arguments in any order: argparse itself takes no further key=value or image once an option has come."""
    args, rest = parser.parse_known_args(argv)
    more = getattr(args, "more", None)
    if rest and (more is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}{_hint(args, rest)}")
    if more is not None:
        getattr(args, more).extend(rest)
    return args


def _hint(args: argparse.Namespace, rest: list[str]) -> str:
    """What a user of `train` may have meant by options that it does not have: settings."""
    if getattr(args, "more", None) != "overrides":
        return ""
    from masksup.config.messages import keys_named

    name, _, value = next(word for word in rest if word.startswith("-")).lstrip("-").partition("=")
    keys = keys_named(name.replace("-", "_")) or ["section.key"]
    after = rest[rest.index(f"--{name}") + 1 :] if f"--{name}" in rest else []
    return f"; settings are given as {keys[0]}={value or (after[0] if after else 'VALUE')}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong option is told as every other mistake, in one line."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists the options\n")


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="masksup", description="Multi-label image recognition: prepare, train, score, predict.")
    parser.add_argument("--version", action="version", version=f"masksup {__version__}")
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    _add(commands, "prepare", prepare, "annotations to an index, with a table of what was found")
    _add(commands, "shards", shards, "the images of an index in tar shards, or those of shards checked")
    _add(commands, "auto", auto, "images and labels to a calibrated model, settings chosen by cross-validation")
    _add(commands, "import", import_weights, "a checkpoint of an original project to a run folder")
    for add in (
        _add_train, _add_eval, _add_calibrate, _add_pack, _add_predict, _add_export, _add_smoke, _add_report, _add_demo,
    ):  # fmt: skip
        add(commands)
    return parser


def _add(commands: _Commands, name: str, module: ModuleType, help: str) -> None:
    """A command of a module with `add_arguments` and `run`."""
    command = commands.add_parser(name, help=help)
    module.add_arguments(command)
    command.set_defaults(run=module.run)


def _add_train(commands: _Commands) -> None:
    command = commands.add_parser("train", help="one run; the same command again goes on where it stopped")
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings, such as optim.lr=0.02"
    )
    command.add_argument("--run-dir", type=Path, metavar="DIR", help="run folder (default: runs/NAME of the config)")
    command.add_argument("--print-config", action="store_true", help="show every value and where it came from")
    command.set_defaults(run=_train, more="overrides")


def _add_eval(commands: _Commands) -> None:
    command = commands.add_parser("eval", help="exact scores with their protocol")
    _add_model(command)
    command.add_argument("--data", type=Path, metavar="INDEX", help="index to score (default: the run's test or eval)")
    command.add_argument("--ap-rule", choices=("area", "voc2012", "voc2007"), help="average precision")
    command.add_argument("--compat", choices=("none", "csra", "csra_wider", "mcar"), help="an original's metric rules")
    command.add_argument("--threshold", type=float, metavar="P", help="probability from which a class is predicted")
    command.add_argument("--masked", choices=("low", "high"), help="hide 1-10 %% or 50-60 %% of each image")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the scores there")
    command.add_argument("--predictions", type=Path, metavar="FILE.npz", help="write every sample's logits there")
    command.add_argument("--bootstrap", type=int, metavar="N", help="resamples for the intervals; 0: no intervals")
    command.add_argument(
        "--write-voc-server", type=Path, metavar="DIR", help="write the result files of the PASCAL VOC server there"
    )
    command.add_argument(
        "--voc-competition", choices=("comp1", "comp2"),
        help="1: trained on VOC alone, 2: on other data too (default: 1 if it began with random weights, else 2)",
    )  # fmt: skip
    add_running(command)
    command.set_defaults(run=_eval)


def _add_calibrate(commands: _Commands) -> None:
    command = commands.add_parser("calibrate", help="thresholds and calibrated probabilities, kept with the run")
    _add_model(command)
    command.add_argument("--data", type=Path, metavar="INDEX", help="index to fit to (default: the run's data.eval)")
    command.add_argument(
        "--aim", default="f1", metavar="AIM", help="f1 (default), precision=P, recall=R or budget=K labels an image"
    )
    command.add_argument(
        "--method", choices=("none", "temperature", "platt", "isotonic"), default="platt",
        help="calibration of the probabilities (default: platt, a slope and an offset for each class)",
    )  # fmt: skip
    command.add_argument(
        "--rule", choices=("shared", "per-class", "mixed", "shrunk"), default="mixed",
        help="mixed (default): classes with few positives share a threshold; shrunk: all are drawn to the shared one",
    )  # fmt: skip
    command.add_argument(
        "--min-positives", type=int, default=50, metavar="N", help="few positives are fewer than these (default: 50)"
    )
    command.add_argument("--folds", type=int, default=5, metavar="K", help="of the cross-validation (default: 5)")
    command.add_argument(
        "--bootstrap", type=int, default=200, metavar="N", help="resamples for the bounds of thresholds (default: 200)"
    )
    command.add_argument(
        "--class",
        action="append",
        default=[],
        dest="given",
        metavar="NAME=P",
        help="set a threshold by hand, repeatable",
    )
    add_running(command)
    command.set_defaults(run=_calibrate)


def _add_pack(commands: _Commands) -> None:
    command = commands.add_parser("pack", help="a trained model with its thresholds and card in one file")
    _add_model(command)
    command.add_argument("--out", type=Path, required=True, metavar="FILE.zip", help="the archive to write")
    command.set_defaults(run=_pack)


def _add_predict(commands: _Commands) -> None:
    command = commands.add_parser("predict", help="labels for images, folders or globs")
    _add_model(command)
    command.add_argument("images", nargs="+", metavar="IMAGES", help="image files, folders or quoted globs")
    command.add_argument("--out", type=Path, metavar="FILE.csv|.json", help="write all scores there")
    command.add_argument("--raw-csv", action="store_true", help=RAW_HELP)
    command.add_argument("--pictures", type=Path, metavar="DIR", help="write the images with their labels drawn there")
    command.add_argument("--threshold", type=float, metavar="P", help="probability from which a class is printed")
    command.add_argument("--explain", action="store_true", help="the pictures also show where each class is seen")
    command.add_argument(
        "--classes", metavar="A,B,C", help="of which classes --explain shows maps (default: predicted)"
    )
    command.add_argument(
        "--exact", action="store_true", help="the scores of masksup eval to the last bit: fills the last batch up"
    )
    add_running(command)
    command.set_defaults(run=_predict, more="images")


def _add_export(commands: _Commands) -> None:
    command = commands.add_parser("export", help="a file that runs without this package, checked against the run")
    _add_model(command)
    command.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="(default: onnx)")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help=".onnx, or .pt2 of torch")
    command.add_argument(
        "--precision", default="fp32", metavar="P", help="fp32 (default), fp16 or int8; several by commas, a file each"
    )
    command.add_argument("--opset", type=int, metavar="N", help="of ONNX (default: that of torch's exporter)")
    command.add_argument(
        "--check", nargs="+", default=[], metavar="IMAGES", help="images to check on (default: the run's evaluation)"
    )
    add_running(command, device="cpu", batch="1, 3 and 8 in turn, of the check")
    command.set_defaults(run=_export)


def _add_smoke(commands: _Commands) -> None:
    command = commands.add_parser("smoke", help="train, score, export and run a configuration in miniature")
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/; its data are not opened")
    command.set_defaults(run=_smoke)


def _add_report(commands: _Commands) -> None:
    command = commands.add_parser("report", help="one HTML file about a run, or several side by side")
    command.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders; the others are compared with the first"
    )
    command.add_argument("--out", type=Path, metavar="FILE.html", help="(default: RUN/report.html; of several, here)")
    command.add_argument("--data", type=Path, metavar="INDEX", help="score them on this (default: as in their results)")
    add_running(command)
    command.set_defaults(run=_report)


def _add_demo(commands: _Commands) -> None:
    command = commands.add_parser("demo", help="a local page: drop pictures, see labels, thresholds and maps")
    command.add_argument(
        "model", type=Path, metavar="RUN_OR_CHECKPOINT", help="run folder, checkpoint or packed archive"
    )
    command.add_argument("--port", type=int, default=8080, metavar="N", help="on 127.0.0.1 (default: 8080)")
    add_running(command)
    command.set_defaults(run=_demo)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model", type=Path, metavar="RUN_OR_CHECKPOINT", help="run folder, checkpoint or packed archive"
    )
    command.add_argument("--weights", choices=("auto", "live", "ema"), default="auto", help="which weights")
    command.add_argument("--checkpoint", metavar="NAME", help="which checkpoint of the run (default: best)")


def _model(args: argparse.Namespace) -> Path:
    from masksup.saved.open import at_checkpoint

    return at_checkpoint(args.model, args.checkpoint)


def _train(args: argparse.Namespace) -> int:
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

        print_config(config, sources)
        return 0
    run_dir = args.run_dir or Path("runs") / args.config.stem
    if place.world == 1:
        refuse_taken(run_dir)
    from masksup.training.train import train

    return train(config, run_dir, place)


def _told_once(place: Place) -> AbstractContextManager[None]:
    """Alone, a configuration is checked without torch."""
    if place.world == 1:
        return nullcontext()
    from masksup.runtime.ranks import told_once

    return told_once(place)


def _eval(args: argparse.Namespace) -> int:
    place = find_place()
    # Before torch is loaded, which takes seconds.
    signals.install("finishes these images, keeps what is done and leaves" if place.first else "")
    from masksup.commands.eval import Wanted, run_eval

    _check_threshold(args.threshold)
    if args.bootstrap is not None and args.bootstrap < 0:
        raise UserError(f"--bootstrap: found {args.bootstrap}, expected a number of resamples, or 0 for no intervals")
    if args.voc_competition and not args.write_voc_server:
        raise UserError("--voc-competition: found without --write-voc-server, whose files it names")
    names = ("ap_rule", "compat", "threshold", "bootstrap")
    rules = {name: getattr(args, name) for name in names}
    wanted = Wanted(args.json, args.predictions, args.write_voc_server, args.voc_competition)
    place, running = find_place(), running_of(args)
    with _told_once(place):
        model = _model(args)
    return run_eval(model, args.data, args.weights, rules, wanted, args.masked, place, running)


def _calibrate(args: argparse.Namespace) -> int:
    from masksup.commands.calibrate import Wanted, run_calibrate

    wanted = Wanted(args.aim, args.method, args.rule, args.min_positives, args.folds, args.bootstrap, tuple(args.given))
    return run_calibrate(_model(args), args.data, args.weights, wanted, running_of(args))


def _pack(args: argparse.Namespace) -> int:
    from masksup.commands.pack import run_pack

    return run_pack(_model(args), args.out, args.weights)


def _predict(args: argparse.Namespace) -> int:
    from masksup.commands.predict import run_predict

    _check_threshold(args.threshold)
    return run_predict(
        _model(args), args.images, args.weights, args.threshold, args.out, args.pictures, args.explain, args.classes,
        running_of(args), exact=args.exact, raw_csv=args.raw_csv,
    )  # fmt: skip


def _report(args: argparse.Namespace) -> int:
    from masksup.commands.report import run_report

    return run_report(args.runs, args.out, args.data, running_of(args))


def _demo(args: argparse.Namespace) -> int:
    from masksup.commands.demo import run_demo

    return run_demo(args.model, args.port, running_of(args))


def _export(args: argparse.Namespace) -> int:
    from masksup.commands.export import run_export

    precisions = args.precision.split(",")
    return run_export(
        _model(args), args.weights, args.format, args.out, precisions, args.opset, args.check, running_of(args)
    )


def _smoke(args: argparse.Namespace) -> int:
    from masksup.smoke.chain import run_smoke

    return run_smoke(args.config)


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not 0 < threshold < 1:
        raise UserError(f"--threshold: found {threshold}, expected a probability between 0 and 1")


if __name__ == "__main__":
    sys.exit(main())
