"""The page of the demo, in NiceGUI: pictures on one side, thresholds on the other. Nothing is written to disk."""

import asyncio
from functools import partial
from typing import Any

from nicegui import app, events, run, ui

from masksup.base.words import counted
from masksup.demo.guard import AtMost, OwnPagesOnly
from masksup.demo.labelling import LabelledPicture, Labeller
from masksup.errors import UserError
from masksup.explain.heat import MEANING
from masksup.report.thumbnails import as_data

MOST_MB = 64
MOST_COMPLAINTS = 20  # shown at once
MOST_PICTURES = 100  # of a visitor: all of them, with the maps of their classes, stay in memory and on the page
STYLE = """
body { --paper: #f4f5f7; --panel: #fff; --ink: #1b1f24; --faint: #59626d; --line: #d9dde2; --hover: #eef1f4; --chosen: #dcebf5; --track: #e6e9ed; --absent: #a8aeb6; --present: #0068a8; --wrong: #a8321a; }
body.body--dark { --paper: #14171a; --panel: #1e2226; --ink: #e6e9ec; --faint: #a2abb5; --line: #383f46; --hover: #2a3036; --chosen: #1d3d53; --track: #343b42; --absent: #69727b; --present: #4aa8e0; --wrong: #ff9a80; }
html:has(body.body--dark) { color-scheme: dark; }
body, body.body--dark { background: var(--paper); color: var(--ink); }
.page { max-width: 78rem; margin: 0 auto; padding: 1rem; width: 100%; }
.columns { display: grid; grid-template-columns: minmax(0, 1fr) 20rem; gap: 1rem; width: 100%; align-items: start; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 1rem; min-width: 0; }
.picture { display: grid; grid-template-columns: minmax(0, 1.3fr) minmax(0, 1fr); gap: 1rem; margin-bottom: 1rem; }
.picture img { width: 100%; border-radius: 6px; display: block; }
.class { width: 100%; text-align: left; padding: .3rem .4rem; border-radius: 6px; cursor: pointer; display: block; border: 0; background: none; font: inherit; color: inherit; }
.class:hover, .class:focus-visible { background: var(--hover); } .class.chosen { background: var(--chosen); }
.line { display: flex; justify-content: space-between; gap: .6rem; } .faint { color: var(--faint); } .wrong { color: var(--wrong); overflow-wrap: anywhere; }
.track { position: relative; height: 9px; background: var(--track); border-radius: 2px; margin-top: 3px; }
.track i { position: absolute; inset: 0 auto 0 0; border-radius: 2px; } .track b { position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--ink); }
.sliders { max-height: 60vh; overflow-y: auto; padding-right: .6rem; }
.scale { height: 10px; width: 9rem; border-radius: 2px; display: inline-block; background: linear-gradient(90deg, #000004, #55106d, #ba3655, #f98c0a, #fcffa4); }
.q-uploader { max-height: none; } .q-uploader__list, .q-uploader__subtitle { display: none; }
.q-uploader__header { background: var(--panel); color: var(--ink); padding: 1.1rem .6rem; }
@media (max-width: 52rem) { .columns, .picture { grid-template-columns: minmax(0, 1fr); } .page { padding: .5rem; } .sliders { max-height: 40vh; } }
"""  # noqa: E501  CSS reads best a rule a line


def serve(labeller: Labeller, host: str, port: int) -> None:
    """Serve until interrupted."""
    app.add_middleware(AtMost, most_bytes=(MOST_MB + 1) * 2**20)  # a file, and what a form adds to it
    app.add_middleware(OwnPagesOnly)
    title = f"masksup: {labeller.trained.checkpoint.split('/')[0]}"
    ui.run(
        partial(build, labeller), host=host, port=port, title=title, show=False, reload=False,
        show_welcome_message=False, favicon="\N{LABEL}", dark=None,  # as the browser prefers
        timeout_graceful_shutdown=1,  # pictures that wait are not labelled before it ends
    )  # fmt: skip


def build(labeller: Labeller) -> None:
    """The page of one visitor, with thresholds and pictures of its own."""
    Page(labeller).draw()


class Page:
    """What one visitor sees: thresholds that start from the run's decisions, and the pictures dropped so far."""

    def __init__(self, labeller: Labeller) -> None:
        self.labeller = labeller
        self.names = labeller.trained.classes
        self.thresholds = list(labeller.decisions.thresholds)
        self.pictures: list[LabelledPicture] = []
        self.chosen: dict[int, int | None] = {}
        self.sliders: list[Any] = []
        self.arrived = self.done = 0  # pictures since nothing was under way
        self.complaints: list[str] = []
        self.closed = self.full = False
        self._turn = asyncio.Lock()

    def draw(self) -> None:
        """Build the whole page."""
        ui.add_css(STYLE)
        ui.context.client.on_delete(self._close)
        trained, decisions = self.labeller.trained, self.labeller.decisions
        with ui.element("main").classes("page"):
            ui.label(trained.checkpoint.split("/")[0]).classes("text-2xl font-bold")
            how = f"thresholds for {decisions.aim}" if decisions.aim else f"threshold {self.thresholds[0]:g}"
            ui.label(f"{counted(len(self.names), 'class')}; {how}. Pictures stay on this machine.").classes(
                "faint q-mb-md"
            )
            with ui.element("div").classes("columns"):
                with ui.element("div").style("min-width: 0"):
                    self._draw_upload()
                    self.results = ui.element("div").classes("q-mt-md")
                with ui.element("aside").classes("panel"):
                    self._draw_thresholds()

    def _draw_upload(self) -> None:
        upload = ui.upload(
            label="Drop pictures here, or press +", multiple=True, auto_upload=True, max_file_size=MOST_MB * 2**20,
            on_upload=self._take,
        )  # fmt: skip
        upload.props("flat bordered").classes("w-full").mark("upload")
        upload.on("rejected", self._reject, js_handler="(refused) => emit(refused.map((entry) => entry.file.name))")
        self.progress = ui.label().classes("faint q-mt-sm").mark("progress")
        self.bar = ui.linear_progress(0, show_value=False)
        self.bar.visible = False
        self.wrong = ui.element("div").classes("panel q-mt-sm").props('role="status"')
        self.wrong.visible = False

    async def _take(self, event: events.UploadEventArguments) -> None:
        """Label a file that arrived, one after the other; what is no picture is named on the page and skipped."""
        if len(self.pictures) + self.arrived - self.done >= MOST_PICTURES:
            self._refuse(event.file.name)
            return
        self.arrived += 1
        self._tell()
        found = await self._labelled(event)
        if self.closed:  # meanwhile: there is nothing left to draw on
            return
        self.done += 1
        self._tell()
        if isinstance(found, LabelledPicture):
            self.pictures.append(found)
            with self.results:
                self._draw_picture(len(self.pictures) - 1).move(self.results, target_index=0)
        else:
            self._complain(str(found))

    async def _labelled(self, event: events.UploadEventArguments) -> LabelledPicture | str | None:
        """The picture, or why the file is none; None where the page was closed meanwhile."""
        async with self._turn:
            if self.closed:
                return None
            data = await event.file.read()  # not before: until then it lies on the disk
            try:
                found: LabelledPicture = await run.io_bound(self.labeller.label, event.file.name, data)
            except UserError as error:
                return str(error)
            return found

    def _refuse(self, name: str) -> None:
        """Of a thousand files that are too many the first is told."""
        if self.full:
            return
        self.full = True
        self._complain(
            f"{name} and what follows are left out: a page holds {MOST_PICTURES} pictures. Reload it for others; "
            "masksup predict labels any number."
        )

    def _reject(self, event: events.GenericEventArguments) -> None:
        """Files that the browser did not send, since they are too large."""
        for name in event.args:
            self._complain(f"{name}: larger than {MOST_MB} MB, which is the most that is taken")

    def _complain(self, text: str) -> None:
        self.complaints.append(text)
        self.wrong.visible = True
        self.wrong.clear()
        with self.wrong:
            with ui.element("div").classes("line items-center"):
                ui.label("Not taken").classes("font-bold")
                ui.button("Clear", on_click=self._forget).props("flat dense no-caps")
            for line in self.complaints[:MOST_COMPLAINTS]:
                ui.label(line).classes("wrong")
            more = len(self.complaints) - MOST_COMPLAINTS
            if more > 0:
                ui.label(f"... and {counted(more, 'file')} more").classes("wrong")

    def _forget(self) -> None:
        self.complaints.clear()
        self.wrong.visible = False

    def _tell(self) -> None:
        """How far the labelling is; uploading, of which the browser tells, is the shorter part."""
        under_way = self.done < self.arrived
        self.progress.text = f"Labelling: {self.done} of {counted(self.arrived, 'file')} done." if under_way else ""
        self.bar.visible = under_way
        self.bar.value = self.done / max(self.arrived, 1)
        if not under_way:
            self.arrived = self.done = 0

    def _close(self) -> None:
        self.closed = True

    def _draw_thresholds(self) -> None:
        ui.label("Thresholds").classes("text-lg font-bold")
        ui.label("A class is predicted from this probability on.").classes("faint text-sm")
        with ui.row().classes("items-center w-full no-wrap q-my-sm"):
            ui.button("All to", on_click=self._set_all).props("flat dense no-caps")
            self.all = ui.number(value=0.5, min=0, max=1, step=0.05).props("dense outlined").classes("w-20")
            ui.button("Reset", on_click=self._reset).props("flat dense no-caps")
        wanted = ui.input("Find a class").props("dense outlined clearable").classes("w-full")
        with ui.element("div").classes("sliders q-mt-sm"):
            for number, name in enumerate(self.names):
                with ui.element("div") as row:
                    with ui.element("div").classes("line text-sm q-mt-sm"):
                        ui.label(name)
                        value = ui.label().classes("faint")
                    slider = ui.slider(min=0, max=1, step=0.005, value=self.thresholds[number])
                    slider.props(f'aria-label="threshold {number}"').mark(f"threshold {number}")
                    slider.on_value_change(partial(self._moved, number))
                    value.bind_text_from(slider, "value", lambda v: f"{v:.3f}")
                    self.sliders.append(slider)
                row.bind_visibility_from(
                    wanted, "value", lambda text, name=name: not text or text.lower() in name.lower()
                )

    def _moved(self, number: int, event: events.ValueChangeEventArguments) -> None:
        self.thresholds[number] = float(event.value)
        self._refresh()

    def _set_all(self) -> None:
        value = self.all.value
        if value is not None:
            self._move_to([min(max(float(value), 0.0), 1.0)] * len(self.names))

    def _reset(self) -> None:
        self._move_to(list(self.labeller.decisions.thresholds))

    def _move_to(self, thresholds: list[float]) -> None:
        for slider, threshold in zip(self.sliders, thresholds):
            slider.value = threshold
        self.thresholds = thresholds
        self._refresh()

    def _refresh(self) -> None:
        self.results.clear()
        with self.results:
            for number in reversed(range(len(self.pictures))):
                self._draw_picture(number)

    def _draw_picture(self, number: int) -> ui.element:
        picture = self.pictures[number]
        chosen = self.chosen.get(number)
        with ui.element("article").classes("panel picture") as article:
            with ui.element("div"):
                what = picture.name if chosen is None else f"{picture.name}: where {self.names[chosen]} is seen"
                ui.element("img").props["src"] = as_data(picture.shown(chosen))
                ui.label(what).classes("text-sm faint")
                if chosen is not None:
                    _draw_scale(picture)
            with ui.element("div"):
                present = [n for n, s, t in zip(self.names, picture.scores_C, self.thresholds) if s >= t]
                ui.label(", ".join(present) or "nothing").classes("text-lg font-bold").mark(f"labels {number}")
                ui.label("Press a class to see where it is seen.").classes("text-sm faint q-mb-sm")
                for c in picture.rows(self.thresholds):
                    self._draw_class(number, c)
        return article

    def _draw_class(self, number: int, c: int) -> None:
        score, threshold = float(self.pictures[number].scores_C[c]), self.thresholds[c]
        present = score >= threshold
        row = ui.element("button").classes("class" + (" chosen" if self.chosen.get(number) == c else ""))
        row.on("click", partial(self._choose, number, c))
        with row:
            with ui.element("div").classes("line" + ("" if present else " faint")):
                ui.label(self.names[c]).classes("font-bold" if present else "")
                ui.label(f"{score:.2f}")
            with ui.element("div").classes("track"):
                ui.element("i").style(
                    f"width: {100 * score:.1f}%; background: var(--{'present' if present else 'absent'})"
                )
                ui.element("b").style(f"left: calc({100 * threshold:.1f}% - 1px)")

    def _choose(self, number: int, c: int) -> None:
        self.chosen[number] = None if self.chosen.get(number) == c else c
        self._refresh()


def _draw_scale(picture: LabelledPicture) -> None:
    title, low, high = MEANING[picture.looks.kind]
    with ui.row().classes("items-center text-sm faint gap-2"):
        ui.label(f"{title}: {low}")
        ui.element("span").classes("scale")
        ui.label(high)
