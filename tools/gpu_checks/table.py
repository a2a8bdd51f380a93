"""The tables of docs/performance.md; what was not run says so, so that nothing is read out of an empty cell."""

from collections.abc import Callable, Iterable, Sequence

from tools.gpu_checks import ceilings, saving, speed
from tools.gpu_checks.results import ABSENT, FAILED, NO_TIME, PASSED, TIMED_OUT, Row, ended, results
from tools.gpu_checks.steps import ONE, SEVERAL, Step

_NOT_RUN = "not run"
_ENDS = {
    PASSED: "passed",
    FAILED: "**failed**",
    TIMED_OUT: "**timed out**",
    ABSENT: "package absent",
    NO_TIME: _NOT_RUN,
}


def tables(rows: Sequence[Row]) -> str:
    """Markdown of the results of one file; of none: the empty tables."""
    steps = SEVERAL if rows and rows[0].get("ranks", 1) > 1 else ONE
    parts = [_machine(rows), _steps(rows, steps)]
    if steps is ONE:
        parts += [_speed(rows), _figures(rows)]
    return "\n\n".join(parts)


def _machine(rows: Sequence[Row]) -> str:
    if not rows:
        return "Machine: none yet."
    said = {key: value for key, value in rows[0].items() if key not in ("step", "tiny")}
    small = " In small on a CPU: figures say nothing." if rows[0].get("tiny") else ""
    return f"Machine: {', '.join(f'{key} {value}' for key, value in said.items())}.{small}"


def _steps(rows: Sequence[Row], steps: Iterable[Step]) -> str:
    lines = ["| step | proves or measures | result |", "|---|---|---|"]
    for step in steps:
        found = results(rows, step.name)
        judged = [row["passed"] for row in found.values() if row.get("passed") is not None]
        count = f" ({sum(judged)} of {len(judged)})" if judged else ""
        lines.append(f"| {step.name} | {step.says} | {_ENDS.get(ended(rows, step.name) or '', _NOT_RUN)}{count} |")
    return "\n".join(lines)


def _speed(rows: Sequence[Row]) -> str:
    found = results(rows, "speed") | results(rows, "compiled")
    columns: dict[str, tuple[str, Callable[[float], str]]] = {
        "images/s": ("images_s", "{:.0f}".format), "share of the bf16 peak": ("share_of_peak", "{:.0%}".format),
        "memory, GiB": ("memory_gib", "{:.1f}".format), "step over the plain one": ("over_plain", "{:.2f} x".format),
    }  # fmt: skip
    lines = [f"| training step, batch 64 | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for network, variant in speed.cells():
        row = found.get(speed.title(network, variant), {})
        cells = [write(row[key]) if row.get(key) is not None else "" for key, write in columns.values()]
        if "images_s" not in row:
            cells[0] = "**failed**" if "error" in row else _NOT_RUN
        lines.append(f"| {speed.title(network, variant)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figures(rows: Sequence[Row]) -> str:
    """Everything else that is measured: a step, what of it, and the key and unit of the figure."""
    figures = [
        *(("ceilings", what, "tflops", "{:.0f} TFLOP/s") for what in (ceilings.BF16, ceilings.TF32, ceilings.FP32)),
        *(("ceilings", what, "gb_s", "{:.1f} GB/s") for what in ceilings.COPIES),
        *(("saving", what, "stall_s", "{:.2f} s") for what in saving.SNAPSHOTS),
        ("scoring", "evaluation", "of_bare", "{:.0%} of bare forwards"),
    ]
    lines = ["| figure | measured |", "|---|--:|"]
    for step, what, key, write in figures:
        value = results(rows, step).get(what, {}).get(key)
        lines.append(f"| {step}: {what} | {_NOT_RUN if value is None else write.format(value)} |")
    loading = results(rows, "loading") or {"by the number of workers": {}}
    for what, row in loading.items():
        share = f" ({row['of_resident']:.0%} of a resident batch)" if "of_resident" in row else ""
        said = f"{row['images_s']:.0f} images/s{share}" if "images_s" in row else _NOT_RUN
        lines.append(f"| loading: {what} | {said} |")
    return "\n".join(lines)
