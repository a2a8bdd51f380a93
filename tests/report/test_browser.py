"""The report in a real browser: no message in its console, no sideways scrolling on a phone, headings that sort."""

import functools
import http.server
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import dump_dom

from masksup.cli import main
from masksup.config.schema import Config
from masksup.training.train import train

PROBE = """<!DOCTYPE html>
<body><iframe id="f" src="report.html" width="WIDTH" height="800"></iframe><pre id="out"></pre>
<script>
const errors = [], frame = document.getElementById("f");
frame.onload = () => {
  const page = frame.contentDocument, window_ = frame.contentWindow;
  window_.onerror = (message) => errors.push(message);
  const heading = [...page.querySelectorAll("#class-table th button")].find((b) => b.textContent === "AP");
  heading.click();
  const values = [...page.querySelectorAll("#class-table tbody td[data-value]")].map((td) => td.dataset.value);
  const root = page.documentElement, place = (node) => {
    const range = page.createRange();
    range.selectNodeContents(node);
    return range.getBoundingClientRect();
  };
  page.querySelectorAll("details").forEach((part) => { part.open = true; });
  const matrix = page.querySelector("table.matrix"), cells = [...matrix.querySelectorAll("tbody tr:first-child td")];
  const headings = [...matrix.querySelectorAll("thead th")].slice(1).map((heading, number) => {
    const text = place(heading), cell = cells[number].getBoundingClientRect();
    return [text.left + text.width / 2 - cell.left - cell.width / 2, cell.top - text.bottom];
  });
  document.getElementById("out").textContent = JSON.stringify(
    {width: window_.innerWidth, scroll: root.scrollWidth, client: root.clientWidth, values, headings, errors});
};
</script></body>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_report_in_a_browser(
    width: int, tiny_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tiny_config(epochs=1), tmp_path / "run") == 0
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report.html")]) == 0
    (tmp_path / "probe.html").write_text(PROBE.replace("WIDTH", str(width)))
    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page, said = dump_dom(f"http://127.0.0.1:{server.server_port}/probe.html", tmp_path / "profile")
    finally:
        server.shutdown()
    found = re.search(r'<pre id="out">(.+?)</pre>', page)
    assert found, page[-2000:] + said[-2000:]
    seen = json.loads(found[1])
    assert seen["width"] == width
    assert seen["scroll"] <= seen["client"], "scrolls sideways"
    assert seen["errors"] == []
    assert "CONSOLE" not in said, said
    assert len(seen["headings"]) > 5
    for beside, above in seen["headings"]:  # of the table of confusions, in pixels
        assert abs(beside) < 2, "a heading stands in the middle of its column"
        assert 0 < above < 12, "and right above it"
    values = [float(value) for value in seen["values"] if value != "-"]
    assert values == sorted(values, reverse=True), "a press on AP sorts"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
