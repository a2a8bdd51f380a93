"""The first hour on a GPU in one command of at most 8 minutes: what is proved, and what is measured.

    python -m tools.gpu_check [--out gpu_check.jsonl]            # one GPU
    python -m tools.gpu_check --ranks 4 [--out gpu_check_4.jsonl]    # 2 to 8 GPUs of this machine
    python -m tools.gpu_check --table [--out FILE]               # the tables of docs/performance.md, from the results

Each step is a process group of its own with a time limit. Results are lines of JSON; the same command goes on where an
earlier one was cut off or ran out of time, and leaves out by name what needs a package that is not there. `--only`
takes some steps, `--tiny` the whole on a CPU in small. `--data INDEX` has the loader read real photographs.

Exit status: 0 all passed, 1 a step failed, 2 a mistake in the command, 75 time ran out (the same command goes on).
"""

import argparse
import sys
import tempfile
from pathlib import Path

from masksup.errors import UserError
from masksup.exits import status_of
from tools.gpu_checks.results import read
from tools.gpu_checks.run import check, run_step
from tools.gpu_checks.setting import Setting
from tools.gpu_checks.steps import steps_for


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    return status_of("gpu_check", _main, args)


def _main(args: argparse.Namespace) -> int:
    names = [step.name for step in steps_for(args.ranks)]
    wrong = [name for name in [*args.only, *([args.step] if args.step else [])] if name not in names]
    if wrong:
        raise UserError(f"--only: found {wrong[0]}, expected of {', '.join(names)}")
    if args.table:
        from tools.gpu_checks.table import tables  # imports all that is measured

        print(tables(read(args.out)))
        return 0
    if args.step:
        run_step(args.out, args.step, Setting(args.tiny, args.ranks, args.folder, data=args.data))
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as folder:
        setting = Setting(args.tiny, args.ranks, Path(folder), data=args.data)
        return check(args.out.absolute(), setting, args.only or names, args.seconds)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.jsonl"), help="the results; its logs lie beside it")
    parser.add_argument("--ranks", type=int, choices=range(1, 9), default=1, metavar="1-8", help="GPUs of this machine")
    parser.add_argument("--seconds", type=float, default=470.0, help="time for all steps")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP")
    parser.add_argument("--data", type=Path, metavar="INDEX", help="real photographs for the loader")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, in small, to test the check")
    parser.add_argument("--table", action="store_true", help="print the tables of the results in --out")
    for name, kind in (("step", str), ("folder", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)  # of the processes that it starts
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
