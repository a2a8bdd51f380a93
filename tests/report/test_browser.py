"""The report in a real browser: no message in its console, no sideways scrolling on a phone, headings that sort."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from masksup.cli import main
from masksup.config import Config
from masksup.train import train

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
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
  const root = page.documentElement;
  document.getElementById("out").textContent = JSON.stringify(
    {width: window_.innerWidth, scroll: root.scrollWidth, client: root.clientWidth, values, errors});
};
</script></body>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_report_in_a_browser(
    width: int, tiny_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not CHROMIUM:
        pytest.skip("Chromium is not here")
    assert train(tiny_config(epochs=1), tmp_path / "run") == 0
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report.html")]) == 0
    (tmp_path / "probe.html").write_text(PROBE.replace("WIDTH", str(width)))
    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-quic", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--window-size=1500,1000",
        ]  # fmt: skip
        address = f"http://127.0.0.1:{server.server_port}/probe.html"
        done = subprocess.run([CHROMIUM, *options, "--dump-dom", address], capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    seen = json.loads(found[1])
    assert seen["width"] == width
    assert seen["scroll"] <= seen["client"], "scrolls sideways"
    assert seen["errors"] == []
    assert "CONSOLE" not in done.stderr, done.stderr
    values = [float(value) for value in seen["values"] if value != "-"]
    assert values == sorted(values, reverse=True), "a press on AP sorts"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
