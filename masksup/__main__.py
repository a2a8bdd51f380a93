"""`python -m masksup`, the same as the console command; what torchrun and srun start. Imports nothing until it runs."""

import sys
from importlib import import_module

_INTERRUPTED = 130  # as in masksup.exits, which is not imported yet


def main(module: str = "masksup.cli") -> int:
    """The command in `module`. Ctrl-C while it is loaded ends it as later, without a traceback."""
    try:
        status: int = import_module(module).main()
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def run() -> int:
    """masksup-run."""
    return main("masksup.inference.command")


if __name__ == "__main__":
    sys.exit(main())
