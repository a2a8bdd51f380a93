"""`masksup report`: gather, compare, render, write."""

from pathlib import Path

from masksup.base.files import refuse_unwritable_file, write_atomically
from masksup.base.log import log, start_logging
from masksup.engine.precision import set_numerics
from masksup.errors import UserError
from masksup.report.compare import refuse_other_data
from masksup.report.gather import Subject, gather, open_subject
from masksup.report.page import render
from masksup.saved.running import AS_TRAINED, Running

MOST_RUNS = 6


def run_report(paths: list[Path], out: Path | None, data: Path | None, running: Running = AS_TRAINED) -> int:
    """Write one HTML file about the runs, the first of which the others are compared with."""
    start_logging()
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{paths[-1]}: found a run twice, expected each once")
    if len(paths) > MOST_RUNS:
        raise UserError(f"found {len(paths)} runs, expected at most {MOST_RUNS} side by side")
    target = out or (paths[0] / "report.html" if len(paths) == 1 and paths[0].is_dir() else Path("report.html"))
    if target.suffix not in (".html", ".htm"):
        raise UserError(f"--out: found '{target.name}', expected a name that ends in .html")
    refuse_unwritable_file("--out", target)
    # All that may be refused is, before the hours that labelling may take.
    subjects: list[Subject] = []
    for path, name in zip(paths, run_names(paths)):
        # An index that was named is scored by one set of rules, those of the first run.
        rules = subjects[0].rules if subjects and data is not None else None
        subjects.append(open_subject(path, name, data, rules, running))
        refuse_other_data(subjects[0], subjects[-1])
    set_numerics(subjects[0].trained.config.precision)
    runs = [gather(subject) for subject in subjects]
    write_atomically(target, render(runs))
    log.info(f"report: {target} ({target.stat().st_size / 2**20:.1f} MiB; opens in any browser, needs no network)")
    return 0


def run_names(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart, at least the folder's own name."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names
