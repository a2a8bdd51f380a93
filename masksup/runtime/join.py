"""Joining the ranks of a job, and leaving it together."""

import os
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from masksup import exits
from masksup.base.lived import lived
from masksup.base.log import FILE_ONLY, log
from masksup.base.place import Place
from masksup.base.words import first_line
from masksup.config.load import to_yaml
from masksup.config.schema import Config, Parallel, Precision
from masksup.errors import JobError, ToldElsewhere, UserError
from masksup.runtime import heartbeat, nccl
from masksup.runtime.gpus import choose_backend, rank_card, take_gpu
from masksup.runtime.ranks import Group
from masksup.runtime.rendezvous import meet, my_card, named
from masksup.runtime.watchdog import INTERRUPT, Watchdog, quick_to_answer, status_for

_TO_TELL = 600.0  # seconds to wait for other ranks where no configuration says how long
# Of a collective. The watchdog alone knows what has a limit and what, such as waiting for a disk, has none; and a
# collective's own clock would go on while a job is suspended.
NO_LIMIT = timedelta(days=30)


@contextmanager
def told_once(place: Place) -> Iterator[None]:
    """Work before the ranks have met, such as reading the input: a UserError there is told by one rank only."""
    try:
        yield
    except UserError as error:
        if place.world > 1:
            with suppress(JobError):  # a rank that comes late changes nothing about the mistake
                meet(place, my_card("", str(error)), _TO_TELL)
        raise


@contextmanager
def joined(place: Place, config: Config) -> Iterator[Group]:
    """Be part of the job as long as the context lasts. A failure inside ends all ranks and names the rank."""
    if place.world == 1:
        yield Group(place, config.parallel)
        return
    parallel = config.parallel
    store, cards = meet(
        place, rank_card(place, to_yaml(config), parallel.backend, _on_gpu(config.precision)), parallel.start_seconds
    )
    watchdog = Watchdog(quick_to_answer(store), place, cards, parallel.step_seconds)
    try:
        group = _form(place, parallel, config.precision, store, watchdog)
        yield group
        group.beat("leaving")
        dist.barrier(group=group.control)
    except ToldElsewhere:
        watchdog.stop()
        with suppress(RuntimeError):
            watchdog.part()
        raise
    except BaseException as error:
        _leave(error, place, watchdog)
    watchdog.stop()
    dist.destroy_process_group()


def _on_gpu(precision: Precision) -> bool:
    return precision.device != "cpu" and torch.cuda.is_available()


def _form(place: Place, parallel: Parallel, precision: Precision, store: Store, watchdog: Watchdog) -> Group:
    watchdog.beat("connecting", parallel.start_seconds)
    on_gpu = _on_gpu(precision)
    backend = choose_backend(parallel.backend, on_gpu)
    if on_gpu:
        take_gpu(place, backend)
        nccl.set_variables()
    dist.init_process_group(
        backend, store=PrefixStore("default", store), rank=place.rank, world_size=place.world, timeout=NO_LIMIT
    )
    control = dist.new_group(backend="gloo", timeout=NO_LIMIT)
    assert isinstance(control, dist.ProcessGroup)
    # NCCL connects at the first sum: here, so that a wrong network card shows within the time that a start may take.
    dist.all_reduce(torch.zeros(1, device="cuda" if on_gpu else "cpu"))
    watchdog.beat("opening the run", None)
    return Group(place, parallel, control, watchdog)


def _leave(error: BaseException, place: Place, watchdog: Watchdog) -> NoReturn:
    """End this rank, and with it the job: the others learn why from the store. Never returns to a collective."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it leaves already
    status, line = exits.status_of_error(error), exits.told(error)
    told = f"rank {place.rank}: {first_line(f'{type(error).__name__}: {error}')}"
    if line is not None:
        told = str(line) if place.first else f"rank {place.rank}: {line}"
    elif isinstance(error, KeyboardInterrupt):
        told = INTERRUPT
    elsewhere = line is None and _came_from_another_rank(error)
    mine, first = True, True
    gone: list[int] = []
    try:
        if elsewhere:
            reason, gone = _other_reason(watchdog)
            mine, told, status = reason is None, reason or told, status_for(reason or told)
        first = watchdog.claim(told)
    except RuntimeError:  # the store is gone with its keeper, who has said why
        mine = first = not elsewhere
        told = told if mine else "another rank has ended, see its log"
    log.error(f"ended: {told}", extra=FILE_ONLY)
    if mine and status == exits.BUG and line is None:
        lines = "".join(traceback.format_exception(error))
        print(textwrap.indent(lines, f"[rank {place.rank}] "), file=sys.stderr, flush=True)
    elif first:
        print(f"masksup: {' '.join(told.split())}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    heartbeat.leave(status, told)
    with suppress(RuntimeError):
        watchdog.part(gone)
    os._exit(status)  # an ordinary exit would wait for threads that wait for the other ranks


def _came_from_another_rank(error: BaseException) -> bool:
    """Whether a collective failed, which is never this rank's own doing."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        word in text for word in ("gloo", "nccl", "connection", "process group")
    )


def _other_reason(watchdog: Watchdog) -> tuple[str | None, list[int]]:
    """Who is to blame: what a failing rank said, or the ranks that went without a word, and these ranks."""
    end = lived() + 2
    while lived() < end:
        reason = watchdog.reason()
        if reason is not None:
            return reason, []
        time.sleep(0.1)
    gone = watchdog.gone()
    if not gone:
        return None, []
    return f"{named(gone)} died without a word (killed, out of memory, or the node is lost)", gone
