"""`masksup models`: the backbones that `model.backbone` may name."""

import argparse

from masksup.base.json_option import add_json
from masksup.output.listing import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern", nargs="?", metavar="PATTERN", help="part of a name, or a glob such as 'vit_*dinov3*'"
    )
    add_json(parser, "the rows")


def run(args: argparse.Namespace) -> None:
    """List timm's families, or the models that fit the pattern with their weights. UserError where none does."""
    from masksup.models.listing import families, matching

    rows = families() if args.pattern is None else matching(args.pattern)
    show(rows, args.json)
    if args.json is None and args.pattern is None:
        print("\nmasksup models PATTERN lists the models of a family with their weights")
    elif args.json is None:
        print("\nmodel.backbone=NAME takes one, and model.weights=timm downloads its weights")
