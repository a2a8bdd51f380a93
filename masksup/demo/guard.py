"""Who may speak to the demo, and how much: pages that it served itself, asked for under this machine's own name.

A page of another site can send requests to 127.0.0.1, too, and by giving its own name this address (DNS rebinding) it
could read the answers. Both are told by the headers that a browser sends and a page cannot choose.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from masksup.base.words import counted

NAMES = {"127.0.0.1", "localhost"}  # with any port: a tunnel may end at another one
_REFUSAL = b"masksup demo answers on http://127.0.0.1 and http://localhost alone, and to its own pages\n"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AtMost:
    """ASGI middleware that takes no longer body: 413 before a byte of it is read, 411 where its length is not said.

    What a page checks by itself binds nobody who sends to the same address.
    """

    def __init__(self, app: App, most_bytes: int) -> None:
        self.app, self.most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        length = next((value for key, value in scope["headers"] if key == b"content-length"), b"")
        if length.isdigit() and int(length) <= self.most:
            await self.app(scope, receive, send)
        else:
            await _answer(
                send,
                413 if length.isdigit() else 411,
                f"at most {counted(self.most, 'byte')}, and their number\n".encode(),
            )


class OwnPagesOnly:
    """ASGI middleware that answers other requests with 403."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or allowed(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _answer(send, 403, _REFUSAL)


async def _answer(send: Send, status: int, text: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})


def allowed(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the Host is this machine's own name, and the Origin, where a browser sends one, is the same address."""
    hosts, origins = (
        [value.decode("latin-1") for key, value in headers if key == name] for name in (b"host", b"origin")
    )
    if len(hosts) != 1 or _name(hosts[0]) not in NAMES:
        return False
    return all(origin == f"http://{hosts[0]}" for origin in origins)


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
