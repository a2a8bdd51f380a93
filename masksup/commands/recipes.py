"""`masksup recipes`: the configurations that come with the program."""

import argparse
from pathlib import Path

from masksup.base.json_option import add_json
from masksup.output.listing import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="NAME", help="only of this data set, such as voc2007")
    parser.add_argument("--method", metavar="NAME", help="only with this method, head, loss or family, such as mcar")
    parser.add_argument("--configs", type=Path, metavar="DIR", help="another folder of them (default: configs)")
    add_json(parser, "the rows")


def run(args: argparse.Namespace) -> None:
    """List them with what was published and measured. UserError for a name that no recipe has."""
    from masksup.config.recipes import chosen, find_recipes

    found = chosen(find_recipes(args.configs), args.data, args.method)
    rows = [
        {
            "data": recipe.data, "method": " ".join(recipe.parts[1:]), "backbone": recipe.backbone, "px": recipe.size,
            "published": recipe.published, "measured here": recipe.measured,
            "memory": recipe.memory, "file": str(recipe.file),
        }
        for recipe in found
    ]  # fmt: skip
    show(rows, args.json, wide="file")
    if args.json is None:
        print("\nmasksup train FILE trains one; docs/recipes.md says how to prepare its data, and what it repeats")
