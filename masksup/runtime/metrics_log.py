"""The numbers of a run: `metrics.jsonl` and TensorBoard hold the same, and a resumed run continues both."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from masksup.base.files import as_json, finite, write_atomically
from masksup.base.json_lines import Appender
from masksup.base.log import log
from masksup.base.words import counted
from masksup.config.load import beyond_defaults, dump
from masksup.config.messages import items
from masksup.config.schema import Config
from masksup.config.yaml_text import yaml_inline
from masksup.metrics.precision_recall import PrCurve
from masksup.runtime.metrics_rows import in_words, read_rows, sorted_out

# TensorBoard shows its groups of curves in the order of their names: these once more, before AP of the classes.
FIRST = {"train/loss": "0_overview/train_loss", "eval/mAP": "0_overview/eval_mAP"}

_here = threading.local()


class Record:
    """Writes points at a step, in the run's own folder; on rank 0 only (`writes`), elsewhere nothing happens.

    A thread writes, in the order of the calls, so that the training does not wait for TensorBoard or the disk.
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self.path = folder / "metrics.jsonl"

    def start(self, step: int) -> None:
        """Open the record to go on after `step`. Points behind it, of a start that was cut off, are taken back."""
        if not self.writes:
            return
        _take_back(self.path, step)
        self._rows = Appender(self.path)
        # Whatever an earlier start wrote from here on is hidden by what will be written again.
        resumed = any(self.folder.glob("events.out.tfevents.*"))
        self.tensorboard = SummaryWriter(str(self.folder), purge_step=step + 1 if resumed else None, flush_secs=30)
        self._hook = threading.excepthook
        threading.excepthook = _but_for_tensorboard(self._hook)
        self._points: list[Callable[[], object]] = []  # for TensorBoard, since it was last flushed
        self._refused = False
        self._drawing: Future[None] | None = None
        self._drawn_at = -math.inf
        self._thread = ThreadPoolExecutor(1, "pictures")
        self._writer, self._failed = ThreadPoolExecutor(1, "record", _note_thread), list[BaseException]()
        self._marks: dict[str, float] = {}
        self._marked = step  # has its point by whoever saved that step

    def beside(self, job: Callable[[], None]) -> None:
        """Have `job` done by the thread that writes, in its turn; it may call what writes points."""
        if not self.writes:
            return
        if getattr(_here, "writes", False):
            job()
        else:
            self._writer.submit(self._do, job)

    def _do(self, job: Callable[[], None]) -> None:
        try:
            with self._guard():
                job()
        except BaseException as error:  # whatever it is, who flushes next raises it
            self._failed.append(error)

    def _row(self, row: dict[str, Any]) -> None:
        """A line of `metrics.jsonl`. A disk that refuses does not stop the training; the line is written later."""
        self.beside(lambda: self._rows.append(finite(row)))

    def _point(self, write: Callable[[], object]) -> None:
        """Something for TensorBoard, alike."""

        def written() -> None:
            self._points.append(write)
            if not self._refused:
                write()

        self.beside(written)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._refused:
                log.error(f"ALARM: the record of this run could not be written, training goes on: {error}")
            self._refused = True

    def flush(self) -> None:
        """Have all on disk, as far as it takes it; what it refused before first. Waits for it."""
        self.flushing()()

    def flushing(self) -> Callable[[], None]:
        """As `flush`, without waiting: what is returned waits. It raises what went wrong in the thread."""
        if not self.writes:
            return lambda: None
        flushed = self._writer.submit(self._do, self._flush)

        def wait() -> None:
            flushed.result()
            if self._failed:
                raise self._failed.pop(0)

        return wait

    def _flush(self) -> None:
        self._rows.flush()
        if self._refused:  # TensorBoard's writer never recovers
            self.tensorboard = SummaryWriter(str(self.folder), flush_secs=30)
            for write in self._points:
                write()
        self.tensorboard.flush()
        self._points.clear()
        if self._refused:
            log.info("the record of this run could be written again, with all that was missing")
        self._refused = False

    def scalars(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """One row of `metrics.jsonl`, and one point a value on the curves `kind/name`."""
        row = {"kind": kind, "step": step, "epoch": round(epoch, 6), **values}
        self._row(row)
        self._scalars(kind, step, dict(values))

    def _scalars(self, kind: str, step: int, values: dict[str, float]) -> None:
        def write() -> None:
            for tag, value in ((f"{kind}/{name}", value) for name, value in values.items()):
                for shown in (tag, FIRST[tag]) if tag in FIRST else (tag,):
                    self.tensorboard.add_scalar(shown, value, step)

        self._point(write)

    def of_ranks(self, step: int, epoch: float, values: dict[str, list[float]]) -> None:
        """A value of each rank, in the order of the ranks: one row of `metrics.jsonl`, and a histogram a name."""
        self._row({"kind": "ranks", "step": step, "epoch": round(epoch, 6), **values})
        for name, row in values.items():
            self._point(
                lambda n=name, r=row: self.tensorboard.add_histogram(f"ranks/{n}", np.asarray(r), step)  # type: ignore[misc]
            )

    def event(self, step: int, text: str, after: str | None = None) -> None:
        """A remark on the run's history: resumed (`after` what: preempted, timeout, ...), stopped, finished."""
        row = {"kind": "event", "step": step, "text": text} | ({"after": after} if after else {})
        self._row(row)
        self._point(lambda: self.tensorboard.add_text("events", text, step))
        self.flushing()

    def begin(self, step: int, start: int, after: str | None) -> None:
        """Note which start of the run this is, and `after` what it goes on at `step`; None: nobody has said."""
        if start > 1:
            going_on = f"resumed, start {start}" if step else f"started again, start {start}"
            self.event(step, going_on + (f", {after} before" if after else ""), after or "resumed")
            self.flush()
        rows = read_rows(self.path) if self.writes else []
        self._marks = {"start": float(start), **Counter(row["after"] for row in rows if "after" in row)}

    def mark(self, step: int) -> None:
        """A point at `step` on the stairs beside the other curves, unless it has one.

        `events/start` is the number of the start that did this step; `events/preempted`, `events/timeout`, ... how
        often the run has gone on after that. Marked are the first step of a start and every step that is
        saved, so that the stairs rise where it happened and no step has two points: a start goes on from a saved one.
        """
        if self.writes and step > self._marked:
            self._scalars("events", step, dict(self._marks))
            self._marked = step

    def hyperparameters(self, config: Config, swept: Sequence[str] = ()) -> None:
        """Declare settings for TensorBoard's HParams tab, once a run, in the run's own folder.

        They are those `swept`, which tell the runs of a sweep apart, and all that differ from their defaults.
        """
        flat = dict(items(dump(config)))
        flat = {key: flat[key] for key in swept if key in flat} | beyond_defaults(config)
        told = {
            key: value if isinstance(value, bool | int | float | str) else yaml_inline(value)
            for key, value in flat.items()
        }
        # SummaryWriter.add_hparams would open a run of its own beside this one, and its first summary lists columns of
        # the table: those of one run for all. Without it TensorBoard shows those of all, and first what differs.
        for summary in cast(Any, hparams)(told, {"eval/mAP": 0.0})[1:]:
            self._point(lambda s=summary: cast(Any, self.tensorboard.file_writer).add_summary(s))  # type: ignore[misc]

    def pr_curve(self, tag: str, step: int, curve: PrCurve, row: int) -> None:
        """The precision-recall curve of one class: `row` of `curve`."""
        counts = [curve.true_positive, curve.false_positive, curve.true_negative, curve.false_negative]
        tp, fp, tn, fn = (counts_CT[row] for counts_CT in counts)
        precision, recall = curve.precision[row], curve.recall[row]
        self._point(
            lambda: self.tensorboard.add_pr_curve_raw(
                f"pr/{tag}", tp, fp, tn, fn, precision, recall, step, num_thresholds=len(tp)
            )
        )

    def draw(self, pictures: Callable[[], None], minutes: float) -> None:
        """Call `pictures`, which writes images, beside the training, unless that was done less than `minutes` ago."""
        if not self.writes or time.monotonic() - self._drawn_at < 60 * minutes:
            return
        self._drawn_at = time.monotonic()
        self._finish_drawing()
        self._drawing = self._thread.submit(pictures)

    def _finish_drawing(self) -> None:
        if self._drawing is not None:
            self._drawing.result()  # raises what went wrong there

    def image(self, tag: str, step: int, picture: np.ndarray[Any, Any]) -> None:
        self._point(lambda: self.tensorboard.add_image(tag, picture, step, dataformats="HWC"))

    def close(self) -> None:
        if not self.writes:
            return
        try:
            self._finish_drawing()
            self.flush()
        finally:
            self._thread.shutdown()
            self._writer.shutdown()
        waiting = self._rows.waiting
        with suppress(OSError):
            self._rows.close()
        with suppress(OSError):
            self.tensorboard.close()
        threading.excepthook = self._hook
        if waiting:
            log.error(f"{self.path}: lost {counted(waiting, 'line')} that the disk refused to the end")


def _note_thread() -> None:
    _here.writes = True


def _take_back(path: Path, step: int) -> None:
    # Events tell the history of the starts and stay; numbers after the step will be measured again.
    rows, damaged = sorted_out(path)
    kept = [row for row in rows if row["kind"] == "event" or row["step"] <= step]
    if damaged:
        aside = path.with_name(f"{path.name}.damaged")
        with aside.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in damaged.values()))
        log.warning(f"{path}: {in_words(damaged)} damaged (a crash cuts off the last one); kept aside in {aside.name}")
    if damaged or len(kept) < len(rows) or (path.exists() and not path.read_bytes().endswith(b"\n")):
        write_atomically(path, "".join(as_json(row) + "\n" for row in kept))


def _but_for_tensorboard(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """TensorBoard's thread shows a page where the disk refuses; its next caller learns it, and tells it in a line."""

    def told(thread: Any) -> None:
        if not (isinstance(thread.exc_value, OSError) and type(thread.thread).__name__ == "_AsyncWriterThread"):
            hook(thread)

    return told
