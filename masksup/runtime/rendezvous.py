"""How the ranks of a job find each other, and make sure that they are all there and mean the same run."""

import hashlib
import json
import os
import platform
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

import masksup
from masksup.base.lived import lived
from masksup.base.place import Place
from masksup.base.words import reason
from masksup.errors import JobError, ToldElsewhere, UserError

_PAUSE = 0.1  # seconds between two looks at what others have to say
_LATE = 15.0  # seconds that other ranks give rank 0 for its verdict


@dataclass(frozen=True)
class RankCard:
    """What a rank says of itself at the start.

    mistake: what it finds wrong with its input.
    gpu: the PCI bus id of a GPU that no other rank may use.
    """

    host: str
    pid: int
    config: str
    code: str
    mistake: str | None
    gpu: str | None = None


def my_card(config_text: str, mistake: str | None = None, gpu: str | None = None) -> RankCard:
    return RankCard(platform.node(), os.getpid(), _digest(config_text.encode()), _code_digest(), mistake, gpu)


def meet(place: Place, card: RankCard, seconds: float) -> tuple[Store, list[RankCard]]:
    """Connect all ranks and call the roll. Returns their common store and everyone's card, by rank.

    JobError names ranks that did not show up within `seconds`; UserError the mistake in some rank's input, the ranks
    whose configuration or code is not that of rank 0, or those that would share a GPU. Every rank leaves then, and
    rank 0 tells.
    """
    deadline = lived() + seconds
    store = _connect(place, deadline)
    store.set(f"card/{place.rank}", json.dumps(asdict(card)))
    if place.first:
        cards = _collect_cards(store, place, deadline)
        mistake = _mistake(cards)
        store.set("verdict", json.dumps({"mistake": mistake, "cards": [asdict(c) for c in cards]}))
        if mistake is not None:
            _wait(lambda: int(store.add("heard", 0)) >= place.world - 1, lived() + _LATE)
            raise UserError(mistake)
        return store, cards
    if not _wait(lambda: store.check(["verdict"]), deadline + _LATE):
        raise JobError(f"rank {place.rank}: rank 0 on {place.host} did not call the roll within {seconds:g} s")
    verdict = json.loads(store.get("verdict"))
    store.add("heard", 1)
    if "missing" in verdict:
        raise JobError("")  # told by rank 0
    if verdict["mistake"] is not None:
        raise ToldElsewhere(verdict["mistake"])
    return store, [RankCard(**card) for card in verdict["cards"]]


def _collect_cards(store: Store, place: Place, deadline: float) -> list[RankCard]:
    keys = [f"card/{rank}" for rank in range(place.world)]
    seconds = deadline - lived()
    if not _wait(lambda: store.check(keys), deadline):
        missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
        store.set("verdict", json.dumps({"missing": missing}))
        _wait(lambda: int(store.add("heard", 0)) >= place.world - 1 - len(missing), lived() + _LATE)
        raise JobError(
            f"{named(missing)} of {place.world} did not show up within {seconds:.0f} s (parallel.start_seconds)"
        )
    return [RankCard(**json.loads(store.get(key))) for key in keys]


def named(ranks: list[int]) -> str:
    """ "rank 3", or "ranks 1, 2, 5"; the first twenty of many."""
    shown = ", ".join(map(str, ranks[:20])) + (f" and {len(ranks) - 20} more" if len(ranks) > 20 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"


def _mistake(cards: list[RankCard]) -> str | None:
    """The first thing that is wrong with the ranks' input, in one line."""
    found = joint_mistake([card.mistake for card in cards])
    if found is not None:
        return found
    for what, of in (
        ("configuration", [c.config for c in cards]),
        ("version of this program", [c.code for c in cards]),
    ):
        other = [rank for rank, value in enumerate(of) if value != of[0]]
        if other:
            hosts = ", ".join(sorted({cards[rank].host for rank in other}))
            return f"{named(other)} on {hosts}: found another {what} than rank 0 on {cards[0].host}, expected the same"
    return _shared_gpu(cards)


def _shared_gpu(cards: list[RankCard]) -> str | None:
    """The first GPU that several ranks want for themselves."""
    ranks_of: dict[tuple[str, str], list[int]] = {}
    for rank, card in enumerate(cards):
        if card.gpu is not None:
            ranks_of.setdefault((card.host, card.gpu), []).append(rank)
    for (host, gpu), ranks in ranks_of.items():
        if len(ranks) > 1:
            return (
                f"{named(ranks)} on {host}: found one GPU ({gpu}) for {len(ranks)} ranks, expected one for each, as "
                "NCCL needs; start fewer ranks, or let them share it with parallel.backend=gloo, which is slow"
            )
    return None


def joint_mistake(mistakes: list[str | None]) -> str | None:
    """One line for what ranks found wrong: the text alone where all found the same, else the first one's rank too."""
    if mistakes[0] is not None:
        return mistakes[0]
    return next((f"rank {rank}: {text}" for rank, text in enumerate(mistakes) if text is not None), None)


def keep_store(place: Place) -> TCPStore:
    """Listen at the place where the ranks of a job look for their store; it is there as long as this object."""
    if place.launcher == "torchrun":
        return _open(place.host, place.ports[0], True, lived() + _LATE)
    return _listen(place)


def find_store(place: Place, seconds: float) -> TCPStore:
    """The store that `keep_store` keeps, of another process."""
    if place.launcher == "torchrun":
        return _open(place.host, place.ports[0], False, lived() + seconds)
    return _find(place, lived() + seconds)


def limit_silence(port: int, seconds: int) -> None:
    """Have this process's calls to the store behind this port fail where an answer does not come within so long.

    torch waits without limit for the answer of a machine that was cut off, whatever time-out the store was given.
    """
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # a file that was closed meanwhile, or another kind of socket
            if str(entry.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                    if connection.getpeername()[1] == port:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


def _connect(place: Place, deadline: float) -> Store:
    if place.launcher == "torchrun":
        keeper = place.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        store = _open(place.host, place.ports[0], keeper, deadline)
    elif place.first:
        store = _listen(place)
    else:
        store = _find(place, deadline)
    return PrefixStore(f"masksup/{place.job}", store)


def _open(host: str, port: int, keeper: bool, deadline: float) -> TCPStore:
    # torch prints pages about a port that nobody listens on; rank 0 may simply be later.
    if not keeper and not _wait(lambda: _listens(host, port), deadline):
        raise JobError(f"no meeting with rank 0 at {host}:{port}: no process listens there")
    left = timedelta(seconds=max(deadline - lived(), 1.0))
    try:
        store = TCPStore(host, port, None, keeper, left, wait_for_workers=False)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise JobError(f"no meeting with rank 0 at {host}:{port}: {reason(error)}") from None
    store.set_timeout(timedelta(seconds=60))
    return store


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _listen(place: Place) -> TCPStore:
    """Rank 0 keeps the store, on the first of the agreed ports that is free."""
    for port in place.ports:
        try:
            store = TCPStore("0.0.0.0", port, None, True, timedelta(seconds=60), wait_for_workers=False)
        except (dist.DistNetworkError, dist.DistStoreError):
            continue  # taken by another job, or by anything else
        store.set("job", place.job)
        return store
    raise JobError(f"rank 0: none of the ports {', '.join(map(str, place.ports))} is free on this host")


def _find(place: Place, deadline: float) -> TCPStore:
    """The port among the agreed ones behind which this very job answers."""
    while lived() < deadline:
        for port in place.ports:
            store = _answering(place, port)
            if store is not None:
                return store
        time.sleep(_PAUSE)
    ports = ", ".join(map(str, place.ports))
    raise JobError(f"rank {place.rank}: rank 0 did not answer on {place.host}, ports {ports}, in time")


def _answering(place: Place, port: int) -> TCPStore | None:
    """The store of this job, if it is what answers behind `port`."""
    # A probe first: the store itself would wait where nothing listens.
    if not _listens(place.host, port):
        return None
    found: list[TCPStore] = []
    # In a thread, because the store waits without limit for the answer of something that is none.
    asking = threading.Thread(target=_ask, args=(place, port, found), daemon=True)
    asking.start()
    asking.join(timeout=5)
    return found[0] if found else None


def _ask(place: Place, port: int, found: list[TCPStore]) -> None:
    try:
        store = TCPStore(place.host, port, None, False, timedelta(seconds=3), wait_for_workers=False)
        if store.get("job").decode() == place.job:
            store.set_timeout(timedelta(seconds=60))
            found.append(store)
    except (OSError, RuntimeError, UnicodeDecodeError):
        return  # something else answers there


def _wait(condition: Callable[[], bool], deadline: float) -> bool:
    while not condition():
        if lived() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _code_digest() -> str:
    root = Path(masksup.__file__).parent
    parts = (path.relative_to(root).as_posix().encode() + path.read_bytes() for path in sorted(root.rglob("*.py")))
    return _digest(b"\0".join(parts))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
