"""How often the maps of `masksup predict --explain` point at their objects, on an index with boxes.

python -m tools.pointing_game RUN... --data INDEX
"""

import argparse
import sys
from pathlib import Path

from masksup.data.index import open_index
from masksup.data.split import refuse_other_classes, whole
from masksup.engine.precision import set_numerics
from masksup.errors import UserError
from masksup.explain.class_maps import map_kind
from masksup.explain.pointing import pointing_game
from masksup.saved.open import open_trained


def main(argv: list[str] | None = None) -> int:
    """Print a line a run."""
    parser = argparse.ArgumentParser(description="the share of maps whose highest position lies in a box of the class")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", required=True, type=Path, metavar="INDEX")
    args = parser.parse_args(argv)
    try:
        part = whole(open_index(args.data))
        for path in args.runs:
            trained = open_trained(path)
            refuse_other_classes("--data", part.index, trained.classes, f"in {trained.checkpoint}")
            set_numerics(trained.config.precision)
            found = pointing_game(trained, part)
            grid = trained.network.backbone.grid
            print(
                f"{path}: {map_kind(trained.network.head)} {grid} x {grid}: {found.hits / found.pairs:.1%} of "
                f"{found.pairs} maps (chance {found.chance:.1%}, possible {found.possible / found.pairs:.1%})",
                flush=True,
            )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
