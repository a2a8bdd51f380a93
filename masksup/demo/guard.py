"""Who may speak to the demo: pages that it served itself, asked for under this machine's own name.

A page of another site can send requests to 127.0.0.1, too, and by giving its own name this address (DNS rebinding) it
could read the answers. Both are told by the headers that a browser sends and a page cannot choose.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

NAMES = {"127.0.0.1", "localhost"}  # with any port: a tunnel may end at another one
_REFUSAL = b"masksup demo answers on http://127.0.0.1 and http://localhost alone, and to its own pages\n"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class OwnPagesOnly:
    """ASGI middleware that answers other requests with 403."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or allowed(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": _REFUSAL})


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
