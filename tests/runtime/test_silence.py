"""A call to the store of a machine that was cut off fails in time, although its connection stays open."""

import socket
import threading
import time
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import TCPStore

from masksup.runtime.rendezvous import limit_silence


def forward(source: socket.socket, target: socket.socket, cut_off: threading.Event) -> None:
    while (content := source.recv(4096)) and not cut_off.is_set():
        target.sendall(content)
    cut_off.wait()


def test_a_store_that_stands_still_is_not_waited_for() -> None:
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=30), wait_for_workers=False)
    cut_off, listening = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def connect() -> None:
        near, far = listening.accept()[0], socket.create_connection(("127.0.0.1", store.port))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=forward, args=(*pair, cut_off), daemon=True).start()

    threading.Thread(target=connect, daemon=True).start()
    port = listening.getsockname()[1]
    client = TCPStore("127.0.0.1", port, None, False, timedelta(seconds=30), wait_for_workers=False)
    limit_silence(port, 1)
    client.set("here", "yes")
    assert client.check(["here"])
    cut_off.set()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="Timeout"):
        client.check(["here"])
    assert time.monotonic() - began < 20
