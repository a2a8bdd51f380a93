"""A Chromium that tests drive through its DevTools protocol: open a page, give it files, read it, close it."""

import itertools
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import OPTIONS, executable
from websockets.sync.client import ClientConnection, connect


class Tab:
    """One page."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.text()
            time.sleep(0.05)

    def give(self, files: list[Path]) -> None:
        """Choose files in the page's first upload field."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        field = self("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        self("DOM.setFileInputFiles", nodeId=field, files=[str(file) for file in files])


@contextmanager
def opened(address: str, profile: Path) -> Iterator[Tab]:
    """A page at `address` in a browser of its own, which ends with the block."""
    words = [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--remote-allow-origins=*", address]
    browser = subprocess.Popen([executable(), *OPTIONS, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told, end = profile / "DevToolsActivePort", time.monotonic() + 60
        while not (told.is_file() and "\n" in told.read_text()):
            assert time.monotonic() < end, "Chromium did not start"
            time.sleep(0.1)
        port = told.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Tab(socket)
    finally:
        browser.terminate()
        browser.wait(30)
