"""`masksup eval`: a run, checkpoint or archive scored on an index."""

import argparse
from functools import partial
from pathlib import Path

from masksup.base import signals
from masksup.base.json_option import STDOUT, add_json, given_as_json, json_file
from masksup.base.place import find_place
from masksup.commands.options import add_model, model_of, refuse_threshold
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.saved.running import add_running, running_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="INDEX",
        help="index to score, such as data/mine/test (default: data.test of the run, else data.eval)",
    )
    parser.add_argument(
        "--ap-rule", choices=("area", "voc2012", "voc2007"), help="rule of the average precision, such as voc2007"
    )
    parser.add_argument(
        "--compat",
        choices=("none", "csra", "csra_wider", "mcar"),
        help="compute as the released code of an original does",
    )
    parser.add_argument("--threshold", type=float, metavar="P", help="probability from which a class is predicted")
    parser.add_argument("--masked", choices=("low", "high"), help="hide 1-10 %% or 50-60 %% of each image")
    add_json(parser, "the scores with their protocol")
    parser.add_argument("--predictions", type=Path, metavar="FILE.npz", help="write the logits of every sample there")
    parser.add_argument(
        "--bootstrap",
        type=int,
        metavar="N",
        help="resamples of the images for the intervals, such as 1000; 0: no intervals",
    )
    parser.add_argument(
        "--write-voc-server", type=Path, metavar="DIR", help="write the result files of the PASCAL VOC server there"
    )
    parser.add_argument(
        "--voc-competition", choices=("comp1", "comp2"),
        help="1: trained on VOC only; 2: also on other data (default: 1 if the run began with random weights, else 2)",
    )  # fmt: skip
    add_running(parser)


def run(args: argparse.Namespace) -> int:
    """Score and show. Returns the exit status: 0, or 75 if it was asked to stop."""
    place = find_place()
    # Before torch is loaded, which takes seconds.
    signals.install("finishes these images, keeps what is done and leaves" if place.first else "")
    from masksup.output.scores import EvalFiles, show_scores, write_scores
    from masksup.runtime.join import told_once
    from masksup.saved.score import scores_of, scoring_of

    refuse_threshold(args.threshold)
    if args.bootstrap is not None and args.bootstrap < 0:
        raise UserError(f"--bootstrap: found {args.bootstrap}, expected a number of resamples, or 0 for no intervals")
    if args.voc_competition and not args.write_voc_server:
        raise UserError("--voc-competition: it needs --write-voc-server DIR; it names the files there")
    names = ("ap_rule", "compat", "threshold", "bootstrap")
    rules = {name: getattr(args, name) for name in names}
    wanted = EvalFiles(json_file(args.json), args.predictions, args.write_voc_server, args.voc_competition)
    running = running_of(args)
    # A file is written by `write_scores`, before anything is shown.
    with given_as_json(STDOUT if args.json == STDOUT else None) as give:
        with told_once(place):
            model = model_of(args)
            if args.masked and wanted.voc_server:
                raise UserError("--write-voc-server: given with --masked, but the server scores whole images; drop one")
        with scoring_of(model, args.data, args.weights, rules, args.masked, running) as scoring:
            with scoring.group.together():
                files = wanted.checked(scoring.trained, scoring.part) if place.first else None
            deliver = partial(write_scores, wanted, files, scoring.part)
            summary = scores_of(scoring, deliver, every_score=wanted.every_score)
            if summary is not None and place.first:  # written by now, because a reader of what is shown may leave
                show_scores(summary, scoring.trained)
                give(summary)
    return STOPPED if summary is None else 0
